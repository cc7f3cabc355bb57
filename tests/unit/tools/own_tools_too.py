"""Tools whose names are others'."""

from tests.unit.tools.own_tools import shout

__all__ = ["python", "shout"]


def python(code: str) -> str:
    """Say what it was to run."""
    return code
