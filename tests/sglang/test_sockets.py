"""Where servers and router can be reached: where they were told to listen, and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.children import descendants
from tests.sglang.servers import needs_servers

pytestmark = needs_servers

LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""As the kernel writes 127.0.0.1, ::1 and ::ffff:127.0.0.1."""


def test_servers_and_router_listen_on_loopback_alone(servers):
    """All of their processes, also on ports that ranks find each other at."""
    announced = [json.loads(path.read_text()) for path in servers.registry.glob("*.json")]
    assert sorted(entry["kind"] for entry in announced) == ["router", "server", "server"]
    for entry in announced:
        found = [address for pid in descendants(entry["pid"]) for address in listening(pid)]
        assert found, entry
        assert {address for address in found if address not in LOOPBACK} == set(), entry


def listening(pid: int) -> Iterator[str]:
    """Addresses that a process accepts connections at, in hexadecimal."""
    links = (os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink())
    sockets = {link for link in links if link.startswith("socket:")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING and f"socket:[{inode}]" in sockets:
                yield local.partition(":")[0]
