"""The memory of servers on a CPU: what one has freed, it uses again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from megatron_stare.engines.sglang.commands import server_environment
from tests.sglang.servers import PYTHON, needs_servers, one_server

pytestmark = needs_servers

BUCKETS = """
import resource, torch
for i in range(12):
    if i == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bucket = torch.empty(64 << 20, dtype=torch.uint8).fill_(i)
    parts = [bucket[: 1 << 20].clone() for _ in range(8)]
    del bucket, parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Takes and frees 64 MiB time and again; how many pages of the last ten were new."""


def test_memory_for_buckets_is_new_only_at_first(tmp_path):
    environment = server_environment(one_server(tmp_path, tmp_path), 0, tmp_path)
    done = subprocess.run(
        [PYTHON, "-c", BUCKETS],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    assert int(done.stdout) < 100


def test_running_servers_have_it(session_servers):
    session_servers.start()
    for pid in session_servers.pids.values():
        assert "libmimalloc" in Path(f"/proc/{pid}/maps").read_text()
