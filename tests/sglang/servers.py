"""Two real SGLang servers for the tests, as `megatron-stare serve` starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from megatron_stare.engines.sglang.commands import ServeOptions, server_command, server_environment
from megatron_stare.engines.sglang.registry import register, registered_urls
from tests.e2e.programs import REPO

PYTHON = REPO / ".venv-sglang/bin/python"
ROUTER_PYTHON = REPO / ".venv-router/bin/python"
needs_servers = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # The first test waits for the servers, minutes on a busy machine.
    pytest.mark.skipif(
        not all((REPO / f".venv-{name}/.setup-stamp").exists() for name in ("sglang", "router")),
        reason="no .venv-sglang or .venv-router: `make setup-sglang` was not run, or failed",
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
}
"""Defaults that the servers apply to every parameter that a request leaves out."""


EXTRA = (
    *("--max-total-tokens", "16384", "--preferred-sampling-params", json.dumps(UNWANTED)),
    "--enable-custom-logit-processor",
)
"""For SGLang's launcher."""


@dataclass(slots=True)
class TwoServers:
    """`megatron-stare serve --servers 2 --router`; `pids` by URL of servers that are announced.

    killed   URLs of servers that were, and are not there again
    revived  servers that were started again beside `serve`, by URL
    """

    model: Path
    registry: Path
    process: subprocess.Popen[str] | None = None
    killed: set[str] = field(default_factory=set)
    revived: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def pids(self) -> dict[str, int]:
        found = [json.loads(path.read_text()) for path in self.registry.glob("*.json")]
        return {entry["url"]: entry["pid"] for entry in found if entry["kind"] == "server"}

    @property
    def router(self) -> str:
        """URL of the router."""
        [url] = registered_urls(self.registry, "router")
        return url

    @property
    def urls(self) -> list[str]:
        return sorted(self.pids)

    @property
    def own(self) -> set[str]:
        """URLs of those that `serve` started and nobody killed."""
        return self.pids.keys() - self.revived.keys() - self.killed

    def start(self, *, num_own: int = 1) -> None:
        """Start what is not up: a server that was killed, or all while `serve` has too few left.

        num_own   of how many `serve` still has to look after: it ends, and its router, without any
        """
        if self.process and self.process.poll() is None and len(self.own) >= num_own:
            for url in sorted(self.killed):
                self.revive(url)
            return
        self.stop()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "megatron_stare.cli", "serve", str(self.model)),
                *("--servers", "2", "--dtype", "float32", "--registry", str(self.registry)),
                *("--router", "--python", str(PYTHON), "--router-python", str(ROUTER_PYTHON)),
                *("--sglang", *EXTRA),
            ],
            cwd=REPO,
            env=os.environ | {"CXX": "/no/compiler"},  # Servers do without.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 270
        while len([*self.registry.glob("*.json")]) < 3:  # The router comes last.
            assert self.process.poll() is None, self.process.stdout.read() + self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def stop(self, *signals: signal.Signals) -> str:
        """End `serve`, and with it the servers; what it printed. SIGTERM, or these in a row."""
        if self.process is None:
            return ""
        for url in [*self.revived]:
            self._end_revived(url)
        self.killed.clear()
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
            time.sleep(0.2)
        printed, _ = self.process.communicate(timeout=60)
        self.process = None
        return printed

    def kill_one(self) -> str:
        """Kill a server with SIGKILL, a revived one where there is one; its URL."""
        url = next(iter(self.revived or self.pids))
        self.kill(url)
        return url

    def kill(self, url: str) -> None:
        """Kill a server with SIGKILL."""
        self.killed.add(url)
        if url in self.revived:
            self._end_revived(url)
        else:
            os.kill(self.pids[url], signal.SIGKILL)

    def revive(self, url: str) -> None:
        """Start a server that was killed again, at its URL, with the weights of the beginning."""
        host, port = urlsplit(url).netloc.split(":")
        options = one_server(self.model, self.registry, host=host, port=int(port), extra=EXTRA)
        with self._file(url, "log").open("ab") as log:
            process = subprocess.Popen(
                server_command(options, int(port), int(port)),  # No other has the seed of a port.
                env=os.environ
                | server_environment(options, 0, Path(tempfile.mkdtemp(dir=self.registry))),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.revived[url] = process
        self.killed.discard(url)
        wait_until(lambda: is_up(url), timeout_s=270)
        register(self.registry, url, pid=process.pid)

    def _end_revived(self, url: str) -> None:
        """Kill a server that no `serve` looks after, and withdraw it."""
        process = self.revived.pop(url)
        process.kill()
        process.wait()
        self._file(url, "json").unlink(missing_ok=True)

    def log_of(self, url: str) -> str:
        """What a server has logged."""
        return self._file(url, "log").read_text()

    def _file(self, url: str, kind: str) -> Path:
        """The registration or the log of a server."""
        return self.registry / f"{urlsplit(url).netloc.replace(':', '_')}.{kind}"

    def logs(self) -> str:
        """The ends of the servers' logs."""
        return "\n".join(path.read_text()[-3000:] for path in self.registry.glob("*.log"))


def one_server(model: Path, registry: Path, **changes: Any) -> ServeOptions:
    """A server on the CPU, on a free port of loopback, in float32."""
    settings: dict[str, Any] = {
        "servers": 1,
        "host": "127.0.0.1",
        "port": 0,
        "dtype": "float32",
        "tensor": 1,
        "num_gpus": 0,
        "deadline_s": 270.0,
        "extra": ("--max-total-tokens", "4096"),
    }
    return ServeOptions(model=model, python=PYTHON, registry=registry, **(settings | changes))


def is_up(url: str) -> bool:
    """Whether a server generates."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health_generate", timeout=5).is_success
    return False


def workers_of(router: str) -> list[str]:
    """URLs of the servers that a router knows."""
    return sorted(worker["url"] for worker in httpx.get(f"{router}/workers").json()["workers"])


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether there is a process with this pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
