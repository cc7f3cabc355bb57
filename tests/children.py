"""Processes that a process has started."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children_of(pid: int | str = "self") -> list[int]:
    """Those that are there; of the test's own process by default. One that has ended has none."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def children_named(name: str) -> list[int]:
    """Of the test's own process, those whose command lines have `name`."""
    return [
        pid for pid in children_of() if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        found += children_of(parent)
    return found
