"""Walls that work on this machine."""

from __future__ import annotations

import pytest

from megatron_stare.tools.sandbox.pool import trouble_with


@pytest.fixture(scope="module", params=["bubblewrap", "landlock"])
def walls(request):
    """Each kind in turn."""
    if trouble := trouble_with(request.param):
        pytest.skip(f"{request.param}: {trouble}")
    return request.param


@pytest.fixture(scope="session")
def any_walls():
    """The first that work, for what is the same behind all of them."""
    for walls in ("bubblewrap", "landlock"):
        if trouble_with(walls) is None:
            return walls
    pytest.skip("no walls work here: megatron-stare tools --check")
