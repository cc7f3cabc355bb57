"""Worlds on the fake device, from a test's own process, which has none.

with Host(Path(".venv/bin/python")) as host:
    ranks = host.run("tests.gpu_rehearsal.programs:command", ["train", "config.yaml"], processes=2)
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]


class RankFailed(AssertionError):
    """A rank did not come to its end; the message is what all of them printed."""


class Host:
    """`host.py` in a Python of ours; its ranks end with it."""

    def __init__(self, python: Path, *options: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "host.log"
        self._command = [str(python), "-m", "tests.gpu_rehearsal.host", *options]
        self._start()

    def _start(self) -> None:
        environment = {
            **{"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            # Compiled functions would ask for CUDA behind the fake device's back.
            "TORCHDYNAMO_DISABLE": "1",
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPO,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        self._is_ready = False

    def _stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def run(
        self, function: str, *arguments: Any, processes: int = 1, timeout_s: float = 570
    ) -> list[Any]:
        """Call `function`, "module:name", as `name(record, *arguments)` on every rank.

        Raises:
            RankFailed: a rank raised, or was silent for `timeout_s`.
        """
        if not self._is_ready:
            assert self._answer(timeout_s) == "ready\n", self._log.read_text()
            self._is_ready = True
        with tempfile.TemporaryDirectory(dir=self._folder.name) as results:
            log = Path(results) / "log.txt"
            request = {
                "function": function,
                "arguments": arguments,
                "processes": processes,
                "port": _free_port(),
                "log": str(log),
                "results": results,
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            answer = self._answer(timeout_s)
            printed = log.read_text()
            if not answer:
                # Ranks are still at it, or it died: the next world is another host's.
                self._stop()
                self._start()
            if not answer or any(json.loads(answer)):
                raise RankFailed(f"exit codes: {answer or 'none in time'}\n{printed}")
            return [
                json.loads((Path(results) / f"{rank}.json").read_text())
                for rank in range(processes)
            ]

    def _answer(self, timeout_s: float) -> str | None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
