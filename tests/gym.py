"""Tests that need the optional package reasoning-gym."""

from importlib.util import find_spec

import pytest

needs_gym = pytest.mark.skipif(
    find_spec("reasoning_gym") is None,
    reason="reasoning-gym is not installed: `make setup` could not build it",
)
