"""A tool whose name is another's."""

from tests.unit.tools.own_tools import shout

__all__ = ["shout"]
