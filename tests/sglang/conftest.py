import pytest

from tests.models import make_hf_folder
from tests.sglang.servers import TwoServers


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """What the servers start with."""
    return make_hf_folder(tmp_path_factory.mktemp("sglang") / "model", "qwen3", seed=1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Other weights of the servers' network, as a trainer would push them."""
    return make_hf_folder(tmp_path_factory.mktemp("trained") / "model", "qwen3", seed=2)


@pytest.fixture(scope="session")
def session_servers(model):
    """The same two for all tests, where a test did not end them."""
    servers = TwoServers(model, model.parent / "registry")
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def servers(session_servers):
    """Two servers that are up, whatever the tests before did to them."""
    session_servers.start()
    return session_servers
