"""Processes that run verifications and can be killed.

A verifier meets text that a policy wrote: it can loop in C code that no exception interrupts,
exhaust memory, or take its process down. So each verification runs in a worker process, under a
deadline that this side enforces with SIGKILL. The verification that was running ends there, the
worker is replaced, and what else had been sent to it is sent to another.

Life of a worker:
    importing -> idle -> {reading a chunk of items -> judging one after the other -> idle} ...
    -> killed at a deadline of any of these or at close, or found dead

A verification that is lost (`Ending`) is tried once more, alone in a fresh process. So is one that
runs into its deadline beside threads or processes that others left behind, which may have hindered
it. Where no worker can be started any more, what no worker is left for is lost, too.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Sequence
from typing import Any

from megatron_stare.errors import UserError
from megatron_stare.rewards.batch import Batch
from megatron_stare.rewards.channel import Garbled
from megatron_stare.rewards.process import Item, Worker
from megatron_stare.rewards.starts import Starts
from megatron_stare.rewards.verdict import Ending, Verdict, failure_of, one_line
from megatron_stare.rewards.worker import BROKEN_CONNECTION, Setup, cause_of_death

_MAX_CHUNK = 32
_MAX_WAIT_S = 3600.0
_MAX_NOTES = 8


class VerifierPool:
    """Runs `function(response, answer)` on many items in `num_workers` killable processes.

    Workers are started when there is work for them, and kept. Use it from one thread at a time, and
    as a context manager or with `close()`.

    Args:
        report: is told, once, what the user should know of the verifier.
        key: that names the verifier, for messages.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        num_workers: int,
        deadline_s: float,
        report: Callable[[str], None] = lambda _: None,
        key: str = "reward.kind",
    ) -> None:
        self._setup = setup
        self._key = key
        self._num_workers = num_workers
        self._deadline_s = deadline_s
        self._report = report
        self._notes: set[str] = set()
        self._workers: list[Worker] = []
        self._starts = Starts()
        self.code: str | None = None
        """A digest of the verifier's code, known from `start` on."""

    def start(self) -> None:
        """Start one worker, to learn now whether it can import the function (else UserError)."""
        self._workers.append(Worker.start(self._setup, self._deadline_s))
        self.run([])

    def run(self, items: Sequence[Item]) -> list[Verdict]:
        """Verify every item; verdicts in the order of the items."""
        batch = Batch(items)
        self._starts = Starts()
        try:
            while batch.num_unsent or any(worker.is_busy for worker in self._workers):
                self._start_workers(batch)
                self._give_up(batch)
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

    def _start_workers(self, batch: Batch) -> None:
        """As many as there is work for; for suspects fresh ones, in the places of idle ones."""
        if self._starts.pause_left_s > 0:
            return
        num_fresh = sum(worker.is_fresh for worker in self._workers)
        num_missing = max(len(batch.suspects) - num_fresh, 0)
        wanted = max(len(self._workers) + num_missing, batch.num_unsent)
        num_in_the_way = len(self._workers) + num_missing - self._num_workers
        used = [w for w in self._workers if not w.is_busy and not w.is_fresh]
        for worker in used[: max(num_in_the_way, 0)]:
            self._workers.remove(worker)
            worker.kill()
        while len(self._workers) < min(self._num_workers, wanted):
            since = time.monotonic()
            try:
                self._workers.append(Worker.start(self._setup, self._deadline_s))
            except OSError as error:
                self._fail_start(failure_of(error), since)
                return

    def _fail_start(self, cause: str, since: float) -> None:
        """UserError before the first worker was ready: then it is the verifier that is wrong."""
        if self.code is None:
            raise UserError(f"{self._key}: cannot import {self._setup.function}: {cause}")
        self._starts.fail(cause, since)

    def _give_up(self, batch: Batch) -> None:
        """Where no worker is started any more, what none is left for is lost."""
        if self._starts.are_given_up:
            failure = f"its process could not be started: {self._starts.cause}"
            if not any(worker.is_fresh for worker in self._workers):
                batch.lose(batch.suspects, failure)
            if not self._workers:
                batch.lose(batch.waiting, failure)

    def _send(self, batch: Batch) -> None:
        """Give idle workers chunks: long for throughput, short enough to share the work."""
        for worker in self._workers:
            if worker.is_busy:
                continue
            chunk = []
            if batch.suspects and worker.is_fresh:
                chunk = [batch.suspects.popleft()]
            elif batch.waiting:
                size = math.ceil(len(batch.waiting) / (2 * self._num_workers))
                chunk = batch.take_chunk(min(_MAX_CHUNK, size))
            if chunk:
                worker.send(chunk, batch.items)

    def _receive(self, batch: Batch) -> None:
        """Wait for the next message, death or deadline, and act on all there are."""
        ready = self._wait()
        for worker in list(self._workers):
            try:
                for message in worker.receive(ready):
                    self._take(message, worker, batch)
            except (EOFError, ConnectionError):
                cause = cause_of_death(worker.kill(), self._setup.memory_bytes)
                self._lose(worker, batch, cause, "lost", is_doubtful=True)
            except Garbled:
                worker.kill()
                is_doubtful = not worker.is_judging_its_first
                self._lose(worker, batch, BROKEN_CONNECTION, "lost", is_doubtful=is_doubtful)
            else:
                if worker.time_left_s <= 0:
                    worker.kill()
                    self._lose_late(worker, batch)

    def _wait(self) -> set[int]:
        """Descriptors of workers that something has happened to, as soon as there are any."""
        poll = select.poll()
        for worker in self._workers:
            worker.watch(poll)
        times_left = [worker.time_left_s for worker in self._workers if worker.is_busy]
        if self._starts.num_failures and not self._starts.are_given_up:
            times_left.append(self._starts.pause_left_s)
        patience_s = min(max(min(times_left, default=0.0), 0.0), _MAX_WAIT_S)
        return {descriptor for descriptor, _ in poll.poll(math.ceil(1000 * patience_s))}

    def _take(self, message: Sequence[Any], worker: Worker, batch: Batch) -> None:
        match message[0]:
            case "verdict":
                place, verdict = worker.take_verdict(message)
                batch.end(place, verdict, is_doubtful=verdict.ending == "lost")
            case "begun":
                worker.take_begun(message)
            case "ready":
                self._take_code(worker.take_ready(message))
                self._starts.succeed()
            case "error" if worker.stage == "importing":
                worker.import_error = one_line(str(message[-1]))
                raise EOFError
            case "note":
                self._note(one_line(str(message[-1])))
            case _:
                raise Garbled

    def _take_code(self, code: str) -> None:
        if self.code not in (None, code):
            self._note("was changed: some of its processes run the code of before, others the new")
        self.code = self.code or code

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < _MAX_NOTES:
            self._notes.add(text)
            self._report(f"{self._key}: {self._setup.function} {text}")

    def _lose_late(self, worker: Worker, batch: Batch) -> None:
        cause = f"deadline of {worker.deadline_s:g} s"
        if worker.stage == "judging":
            is_doubtful = worker.leaves_something
            self._lose(worker, batch, cause, "deadline", is_doubtful=is_doubtful)
        else:
            self._lose(worker, batch, cause, "lost", is_doubtful=True)

    def _lose(
        self, worker: Worker, batch: Batch, cause: str, ending: Ending, *, is_doubtful: bool
    ) -> None:
        """End the running item, of a worker that was killed, and have the others wait again."""
        self._workers.remove(worker)
        if worker.stage == "importing":
            self._fail_start(worker.import_error or cause, worker.since)
            return
        if not worker.items:
            return
        if worker.stage == "reading" and worker.num_verdicts:  # No item of these is to blame.
            batch.take_back(worker.items)
            return
        place = worker.items.popleft().place
        batch.take_back(worker.items)
        verdict = Verdict(0.0, False, cause, time.monotonic() - worker.since, ending)
        batch.end(place, verdict, is_doubtful=is_doubtful)
