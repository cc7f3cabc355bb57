import pytest

from tests.e2e.programs import make_workspace
from tests.slurm.cluster import Cluster, missing_programs


@pytest.fixture(scope="session")
def cluster():
    """Three nodes."""
    missing = missing_programs()
    if missing:
        pytest.skip(
            f"no Slurm here ({', '.join(missing)} not found): `make test-slurm` installs it where "
            "root may use apt-get (slurm-wlm, munge)"
        )
    with Cluster.start(3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("slurm") / "workspace")


@pytest.fixture(scope="session")
def config(workspace):
    return workspace / "train.yaml"
