"""Writes that a run can do without: one that fails is reported, and the run goes on.

outage = Outage("samples/", report)
with outage.tolerated():
    write(...)                     # OSError: said once, until one succeeds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Outage:
    """Whether something cannot be written at present, of which `report` is told when it begins."""

    def __init__(self, what: str, report: Callable[[str], None]) -> None:
        self._what = what
        self._report = report
        self._is_on = False

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """What the system refuses in the block ends the block, and nothing else."""
        try:
            yield
        except OSError as error:
            if not self._is_on:
                self._report(f"{self._what}: cannot be written ({error}); the run goes on without")
            self._is_on = True
        else:
            self._is_on = False
