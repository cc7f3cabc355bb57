"""Runs as processes that can be watched, signalled and killed; they start in about a second.

with Running.start(folder, "train", config, "train.steps=6") as run:
    run.wait_for_steps(2)
    run.signal(signal.SIGTERM)
    assert run.wait() == 75
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.worlds import FORKSERVER


@dataclass
class Running:
    """The processes of one run; `log` has what they print."""

    processes: list[BaseProcess]
    run_dir: Path
    log: Path

    @classmethod
    def start(
        cls,
        run_dir: Path,
        config: Path,
        *overrides: str,
        processes: int = 1,
        command: str = "train",
    ) -> Running:
        """`megatron-stare COMMAND CONFIG run.dir=RUN_DIR ...`, in a world of so many processes."""
        run_dir.mkdir(parents=True, exist_ok=True)
        log = run_dir / "log.txt"
        log.touch()
        arguments = [command, str(config), f"run.dir={run_dir}", *overrides]
        port = _free_port()
        started = [
            FORKSERVER.Process(target=_main, args=(rank, processes, port, arguments, log))
            for rank in range(processes)
        ]
        for process in started:
            process.start()
        return cls(started, run_dir, log)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def num_lines(self) -> int:
        """Lines of metrics so far."""
        path = self.run_dir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def wait_for_lines(self, count: int) -> None:
        """Until so many lines of metrics are written."""
        self.wait_for(lambda: self.num_lines() >= count)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        """Until the run has come so far."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.is_running, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.001)

    @property
    def is_running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """To all processes, or to some."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            pid = self.processes[rank].pid
            assert pid is not None
            os.kill(pid, number)

    def kill(self) -> None:
        """As a machine that loses power does."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float = 120) -> int | None:
        """The exit code, the same for all processes."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
        codes = {process.exitcode for process in self.processes}
        assert len(codes) == 1, (codes, self.log.read_text())
        return codes.pop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _main(rank: int, size: int, port: int, arguments: list[str], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if size > 1:
        place = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{key: str(v) for key, v in place.items()}}
    import torch

    from megatron_stare.cli import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))
