"""Memory of a process that runs code of others: a verifier, a chat template."""

from __future__ import annotations

import resource
from pathlib import Path


def limit_memory(added_bytes: int) -> None:
    """Cap this process's address space at its present size plus so much; it dumps no core."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + added_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
