"""Two real SGLang servers for the tests, as `megatron-stare serve` starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.programs import REPO

PYTHON = REPO / ".venv-sglang/bin/python"
needs_servers = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # The first test waits for the servers, minutes on a busy machine.
    pytest.mark.skipif(
        not (REPO / ".venv-sglang/.setup-stamp").exists(),
        reason="no .venv-sglang: `make setup-sglang` was not run, or could not make it",
    ),
]
"""`pytestmark` of the modules that use them."""
UNWANTED = {
    "max_new_tokens": 3,
    "temperature": 0.01,
    "top_p": 0.1,
    "top_k": 1,
    "min_p": 0.9,
    "frequency_penalty": 1.5,
    "presence_penalty": 1.5,
    "repetition_penalty": 1.9,
    "stop_token_ids": [65],
    "ignore_eos": True,
    "logit_bias": {"65": 90.0},
}
"""Defaults that the servers apply to every parameter that a request leaves out."""


@dataclass(slots=True)
class TwoServers:
    """`megatron-stare serve --servers 2`; `pids` by URL of the servers that are announced."""

    model: Path
    registry: Path
    process: subprocess.Popen[str] | None = None

    @property
    def pids(self) -> dict[str, int]:
        found = [json.loads(path.read_text()) for path in self.registry.glob("*.json")]
        return {entry["url"]: entry["pid"] for entry in found}

    @property
    def urls(self) -> list[str]:
        return sorted(self.pids)

    def start(self) -> None:
        """Start them, unless both are up."""
        if self.process is not None and self.process.poll() is None and len(self.pids) == 2:
            return
        self.stop()
        extra = ["--max-total-tokens", "16384", "--preferred-sampling-params", json.dumps(UNWANTED)]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "megatron_stare.cli", "serve", str(self.model)),
                *("--servers", "2", "--dtype", "float32", "--registry", str(self.registry)),
                *("--python", str(PYTHON), "--sglang", *extra),
            ],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 270
        while len(self.pids) < 2:
            assert self.process.poll() is None, self.process.stdout.read() + self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def stop(self) -> str:
        """End `serve`, and with it the servers; what it printed."""
        if self.process is None:
            return ""
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=60)
        self.process = None
        return printed

    def kill_one(self) -> str:
        """Kill a server with SIGKILL; its URL."""
        url, pid = next(iter(self.pids.items()))
        os.kill(pid, signal.SIGKILL)
        return url

    def logs(self) -> str:
        """The ends of the servers' logs."""
        return "\n".join(path.read_text()[-3000:] for path in self.registry.glob("*.log"))


def is_alive(pid: int) -> bool:
    """Whether there is a process with this pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
