"""Processes that the test's own has started."""

from __future__ import annotations

from pathlib import Path


def processes(name: str) -> list[int]:
    """Those that are there, by their command lines, which have `name`."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
