"""Processes that run verifications and can be killed.

A verifier meets text that a policy wrote: it can loop in C code that no exception interrupts,
exhaust memory, or take its process down. So each verification runs in a worker process, under a
deadline that this side enforces with SIGKILL. The verification that was running gets a failure, the
worker is replaced, and what else had been sent to it is sent to another.

Life of a worker:
    started -> ready (its import succeeded) -> {idle -> answering a chunk of items} ...
    -> killed at a deadline or at close, or found dead
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from megatron_stare.errors import UserError
from megatron_stare.rewards.worker import EXIT_MEMORY, Setup, Verdict
from megatron_stare.stop_signals import kept_from_children

Item = tuple[str, str]
"""A response and the reference answer."""

_IMPORT_DEADLINE_S = 120.0
_MAX_CHUNK = 32


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, and the items sent to it that it has not answered: the first is running."""

    process: subprocess.Popen[bytes]
    connection: Connection
    is_ready: bool = False
    items: deque[int] = field(default_factory=deque)
    since: float = field(default_factory=time.monotonic)
    """When the running item, or the import, began."""

    @classmethod
    def start(cls, setup: Setup) -> _Worker:
        ours, theirs = Pipe()
        with kept_from_children():
            process = subprocess.Popen(
                [sys.executable, "-m", "megatron_stare.rewards.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        ours.send(setup)
        return cls(process, ours)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited from it."""
        return bool(self.items) or not self.is_ready

    def kill(self) -> int:
        """End the process and what it started; its exit code."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        self.process.communicate()
        return self.process.returncode


@dataclass(slots=True)
class _Batch:
    """The items of one call, those not sent to a worker, and the verdicts so far."""

    items: Sequence[Item]
    waiting: deque[int] = field(init=False)
    verdicts: list[Verdict | None] = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.items)))
        self.verdicts = [None] * len(self.items)

    def take_back(self, sent: deque[int]) -> None:
        """Have items wait again, before the others."""
        self.waiting.extendleft(reversed(sent))
        sent.clear()


class VerifierPool:
    """Runs `function(response, answer)` on many items in `num_workers` killable processes.

    Workers are started when there is work for them, and kept. Use it from one thread at a time, and
    as a context manager or with `close()`.
    """

    def __init__(self, setup: Setup, *, num_workers: int, deadline_s: float) -> None:
        self._setup = setup
        self._num_workers = num_workers
        self._deadline_s = deadline_s
        self._workers: list[_Worker] = []

    def start(self) -> None:
        """Start one worker, to learn now whether it can import the function (else UserError)."""
        self._start_workers(1)
        self.run([])

    def run(self, items: Sequence[Item]) -> list[Verdict]:
        """Verify every item; verdicts in the order of the items."""
        batch = _Batch(items)
        try:
            while batch.waiting or any(worker.is_busy for worker in self._workers):
                self._start_workers(min(self._num_workers, len(batch.waiting)))
                self._send(batch)
                self._receive(batch)
        except BaseException:
            self.close()  # What is under way would be taken for answers to the next call.
            raise
        return [verdict for verdict in batch.verdicts if verdict is not None]

    def close(self) -> None:
        """Kill the workers."""
        while self._workers:
            self._workers.pop().kill()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_workers(self, count: int) -> None:
        while len(self._workers) < count:
            self._workers.append(_Worker.start(self._setup))

    def _send(self, batch: _Batch) -> None:
        """Give idle workers chunks: long for throughput, short enough to share the work."""
        for worker in self._workers:
            if not batch.waiting or worker.is_busy:
                continue
            size = min(_MAX_CHUNK, math.ceil(len(batch.waiting) / (2 * self._num_workers)))
            worker.items.extend(batch.waiting.popleft() for _ in range(size))
            worker.since = time.monotonic()
            try:
                worker.connection.send([batch.items[i] for i in worker.items])
            except ConnectionError:  # It died while idle: no item is to blame.
                batch.take_back(worker.items)

    def _receive(self, batch: _Batch) -> None:
        """Wait for the next message, death or deadline, and act on all there are."""
        times_left = [self._time_left(worker) for worker in self._workers if worker.is_busy]
        patience = max(min(times_left, default=0.0), 0.0)
        wait([worker.connection for worker in self._workers], timeout=patience)
        for worker in list(self._workers):
            try:
                while worker.connection.poll():
                    self._take(worker.connection.recv(), worker, batch)
            except (EOFError, ConnectionError):
                self._lose(worker, batch, self._cause_of_death(worker.kill()))
            else:
                if worker.is_busy and self._time_left(worker) <= 0:
                    worker.kill()
                    self._lose(worker, batch, f"deadline of {self._deadline_of(worker):g} s")

    def _take(self, message: Verdict | str | None, worker: _Worker, batch: _Batch) -> None:
        """A verdict, or what became of the import: None, or the error."""
        if isinstance(message, Verdict):
            batch.verdicts[worker.items.popleft()] = message
        elif message is None:
            worker.is_ready = True
        else:
            raise self._import_error(message)
        worker.since = time.monotonic()

    def _lose(self, worker: _Worker, batch: _Batch, cause: str) -> None:
        """Give the running item its failure, and what was to follow it back to the others."""
        self._workers.remove(worker)
        if not worker.is_ready:
            raise self._import_error(cause)
        if worker.items:
            running = worker.items.popleft()
            seconds = time.monotonic() - worker.since
            batch.verdicts[running] = Verdict(0.0, False, cause, seconds)
            batch.take_back(worker.items)

    def _deadline_of(self, worker: _Worker) -> float:
        return self._deadline_s if worker.is_ready else _IMPORT_DEADLINE_S

    def _time_left(self, worker: _Worker) -> float:
        return worker.since + self._deadline_of(worker) - time.monotonic()

    def _cause_of_death(self, exit_code: int) -> str:
        if exit_code == EXIT_MEMORY:
            return f"memory limit of {self._setup.memory_bytes / 2**30:g} GiB"
        return f"process died (exit code {exit_code})"

    def _import_error(self, cause: str) -> UserError:
        return UserError(f"reward.kind: cannot import {self._setup.function}: {cause}")
