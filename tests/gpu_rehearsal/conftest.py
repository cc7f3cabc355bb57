"""One process with the fake device for all tests, and one with Transformer Engine's Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu_rehearsal.processes import REPO, Host

TE_PYTHON = REPO / ".venv-te/bin/python"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it is slow: left out of `make test-fast`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def fake_gpu() -> Iterator[Host]:
    """The trainer on the fake device, with torch's layers."""
    with Host(Path(sys.executable)) as host:
        yield host


@pytest.fixture(scope="session")
def fake_gpu_te() -> Iterator[Host]:
    """The same with Transformer Engine's layers."""
    if not TE_PYTHON.with_name("megatron-stare").exists():
        pytest.skip("no .venv-te: `make setup-te` was not run, or failed")
    with Host(TE_PYTHON, "--transformer-engine") as host:
        yield host
