"""Processes that run verifications and can be killed.

A verifier meets text that a policy wrote: it can loop in C code that no exception interrupts,
exhaust memory, or take its process down. So each verification runs in a worker process, under a
deadline that this side enforces with SIGKILL. The verification that was running gets a failure, the
worker is replaced, and what else had been sent to it is sent to another.

Life of a worker:
    importing -> idle -> {reading a chunk of items -> judging one after the other -> idle} ...
    -> killed at a deadline of any of these or at close, or found dead

A verification may leave threads or processes behind, which then hinder another's. So one that runs
into its deadline, or dies, beside such leavings is tried once more in a fresh worker.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from megatron_stare.errors import UserError
from megatron_stare.rewards.channel import Garbled
from megatron_stare.rewards.process import Item, Worker
from megatron_stare.rewards.verdict import Verdict, one_line
from megatron_stare.rewards.worker import EXIT_MEMORY, Setup

_MAX_CHUNK = 32
_MAX_CHUNK_CHARACTERS = 1 << 20
_MAX_WAIT_S = 3600.0
_MAX_NOTES = 8


@dataclass(slots=True)
class _Batch:
    """The items of one call by their places, and the verdicts so far.

    waiting   not sent to a worker
    suspects  the same, each to be sent alone to a fresh worker: what happened to it in another may
              have been another's doing
    retried   what has been a suspect
    """

    items: Sequence[Item]
    waiting: deque[int] = field(init=False)
    verdicts: list[Verdict | None] = field(init=False)
    suspects: deque[int] = field(default_factory=deque)
    retried: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.items)))
        self.verdicts = [None] * len(self.items)

    def take_chunk(self, max_items: int) -> list[int]:
        """Places of the next items, at least one, with so much text that a process soon has it."""
        chunk, size = [self.waiting.popleft()], 0
        while self.waiting and len(chunk) < max_items and size < _MAX_CHUNK_CHARACTERS:
            size += sum(map(len, self.items[chunk[-1]]))
            chunk.append(self.waiting.popleft())
        return chunk

    def take_back(self, worker: Worker) -> None:
        """Have what was sent to a worker wait again, before the others."""
        self.waiting.extendleft(sent.place for sent in reversed(worker.items))

    def suspect(self, place: int) -> None:
        """Try an item once more, in a fresh worker."""
        self.suspects.append(place)
        self.retried.add(place)


class VerifierPool:
    """Runs `function(response, answer)` on many items in `num_workers` killable processes.

    Workers are started when there is work for them, and kept. Use it from one thread at a time, and
    as a context manager or with `close()`.

    Args:
        report: is told, once, what the user should know of the verifier.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        num_workers: int,
        deadline_s: float,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._setup = setup
        self._num_workers = num_workers
        self._deadline_s = deadline_s
        self._report = report
        self._notes: set[str] = set()
        self._workers: list[Worker] = []
        self.code: str | None = None
        """A digest of the verifier's code, known from `start` on."""

    def start(self) -> None:
        """Start one worker, to learn now whether it can import the function (else UserError)."""
        self._workers.append(Worker.start(self._setup, self._deadline_s))
        self.run([])

    def run(self, items: Sequence[Item]) -> list[Verdict]:
        """Verify every item; verdicts in the order of the items."""
        batch = _Batch(items)
        try:
            while batch.waiting or batch.suspects or any(w.is_busy for w in self._workers):
                self._start_workers(batch)
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

    def _start_workers(self, batch: _Batch) -> None:
        """As many as there is work for; for a suspect a fresh one, in an idle one's place."""
        if batch.suspects and not any(worker.is_fresh for worker in self._workers):
            idle = [worker for worker in self._workers if not worker.is_busy]
            if idle and len(self._workers) == self._num_workers:
                self._workers.remove(idle[0])
                idle[0].kill()
        num_items = len(batch.waiting) + len(batch.suspects)
        is_needed = batch.suspects and not any(worker.is_fresh for worker in self._workers)
        wanted = len(self._workers) + 1 if is_needed else num_items
        while len(self._workers) < min(self._num_workers, wanted):
            self._workers.append(Worker.start(self._setup, self._deadline_s))

    def _send(self, batch: _Batch) -> None:
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
                with suppress(ConnectionError):  # It is found dead when it is listened to.
                    worker.send(chunk, batch.items)

    def _receive(self, batch: _Batch) -> None:
        """Wait for the next message, death or deadline, and act on all there are."""
        ready = self._wait()
        for worker in list(self._workers):
            try:
                self._listen(worker, batch, ready)
            except (EOFError, ConnectionError):
                code = worker.kill()
                is_doubtful = code == EXIT_MEMORY  # What leaked before counts against it.
                self._lose(worker, batch, self._cause_of_death(code), is_doubtful)
            except Garbled:
                worker.kill()
                self._lose(worker, batch, "broke the connection of its process", True)
            else:
                if worker.time_left_s <= 0:
                    worker.kill()
                    self._lose(worker, batch, f"deadline of {worker.deadline_s:g} s")

    def _wait(self) -> set[int]:
        """Descriptors of workers that something has happened to, as soon as there are any."""
        poll = select.poll()
        for worker in self._workers:
            writing = select.POLLOUT if worker.channel.has_unsent else 0
            poll.register(worker.channel.fileno(), select.POLLIN | writing)
            poll.register(worker.death, select.POLLIN)
        times_left = (worker.time_left_s for worker in self._workers)
        patience_s = min(max(min(times_left, default=0.0), 0.0), _MAX_WAIT_S)
        return {descriptor for descriptor, _ in poll.poll(math.ceil(1000 * patience_s))}

    def _listen(self, worker: Worker, batch: _Batch, ready: set[int]) -> None:
        if worker.channel.fileno() in ready:
            worker.channel.flush()
            for message in worker.channel.receive():
                self._take(message, worker, batch)
        elif worker.death in ready:  # What it started holds the connection open.
            raise EOFError

    def _take(self, message: Sequence[Any], worker: Worker, batch: _Batch) -> None:
        match message[0]:
            case "verdict":
                place, verdict = worker.take_verdict(message)
                batch.verdicts[place] = verdict
            case "begun":
                worker.take_begun(message)
            case "ready":
                self._take_code(worker.take_ready(message))
            case "error" if worker.stage == "importing":
                raise self._import_error(one_line(str(message[-1])))
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
            self._report(f"reward.kind: {self._setup.function} {text}")

    def _lose(self, worker: Worker, batch: _Batch, cause: str, is_doubtful: bool = False) -> None:
        """Give the running item its failure, or another try, and have the others wait again.

        Args:
            is_doubtful: whether it may be another item's doing, whatever the worker said.
        """
        self._workers.remove(worker)
        if worker.stage == "importing":
            raise self._import_error(cause)
        if not worker.items:
            return
        is_first = worker.num_verdicts == 0
        if worker.stage == "reading" and not is_first:  # No item of these is to blame.
            batch.take_back(worker)
            return
        place = worker.items.popleft().place
        batch.take_back(worker)
        is_beside_others = is_doubtful or worker.leaves_something
        is_its_own = worker.stage == "judging" and (is_first or not is_beside_others)
        if is_its_own or place in batch.retried:
            seconds = time.monotonic() - worker.since
            batch.verdicts[place] = Verdict(0.0, False, cause, seconds)
        else:
            batch.suspect(place)

    def _cause_of_death(self, exit_code: int) -> str:
        if exit_code == EXIT_MEMORY:
            return f"memory limit of {self._setup.memory_bytes / 2**30:g} GiB"
        return f"process died (exit code {exit_code})"

    def _import_error(self, cause: str) -> UserError:
        return UserError(f"reward.kind: cannot import {self._setup.function}: {cause}")
