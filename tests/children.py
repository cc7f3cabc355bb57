"""Processes that a process has started."""

from __future__ import annotations

from pathlib import Path


def children_of(pid: int | str = "self") -> list[int]:
    """Those that are there; of the test's own process by default."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


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
