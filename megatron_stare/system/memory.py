"""Memory of this machine that nobody uses."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that processes here could still have: the kernel's estimate, or a job's own limit.

    0 where neither is said, as beside Linux.
    """
    lines = _text(meminfo).splitlines()
    said = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = _text(cgroup / "memory.max"), _text(cgroup / "memory.current")
    if said and limit.isdigit() and used.isdigit():
        said.append(max(int(limit) - int(used), 0))
    return min(said, default=0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
