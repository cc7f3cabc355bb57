"""Processes of environments, each of which plays for many sessions, one request at a time.

    session --its number--> slot --lock--> process (`worker`), started when it is needed

A request that is lost (its environment raised, ran into the deadline, died) ends the process, so
that the next try is in a fresh one; what else was played in it begins again there, from its texts.
"""

from __future__ import annotations

import math
import os
import secrets
import select
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from megatron_stare.config.environments import EnvironmentConfig, EnvironmentsConfig
from megatron_stare.environments.environment import Start, Step
from megatron_stare.environments.worker import Request, Setup
from megatron_stare.rewards.channel import Garbled
from megatron_stare.rewards.killable import Killable, start_killable
from megatron_stare.rewards.verdict import failure_of, one_line
from megatron_stare.rewards.worker import BROKEN_CONNECTION, cause_of_death
from megatron_stare.types import LARGEST_REWARD

_MODULE = "megatron_stare.environments.worker"
_MAX_POLL_S = 3600.0
_CLOSED = "the environments are closed"


class EnvironmentFailure(Exception):
    """An environment could not be played, for a reason that is not the model's."""


@dataclass(frozen=True, slots=True)
class Session:
    """One episode's environment: which it is, and where it begins."""

    id: int
    environment: EnvironmentConfig
    start: Start


class EnvironmentPool:
    """Plays for any number of threads; a context manager, or `close()` it.

    Args:
        max_attempts: tries of a request, each but the first in a fresh process.
    """

    def __init__(self, config: EnvironmentsConfig, *, max_attempts: int) -> None:
        self._config = config
        self._max_attempts = max_attempts
        self._folder = tempfile.TemporaryDirectory(prefix="environments-")
        setup = Setup(int(config.memory_gib * 2**30), tuple(sys.path))
        self._slots = [_Slot(setup, self._folder.name) for _ in range(config.workers)]
        self._ids = count()
        self.codes: dict[str, str] = {}
        """Digests of the code of environments that were played, by their paths."""

    def open(self, environment: EnvironmentConfig, start: Start) -> Session:
        """A session; it costs nothing before it is played."""
        return Session(next(self._ids), environment, start)

    def play(self, session: Session, texts: Sequence[str] | None) -> list[Step]:
        """The steps of the last text, or, where the environment began again, of all with the first.

        Args:
            texts: of all turns so far; None to see that there is such an environment.

        Raises:
            EnvironmentFailure: there are none.
        """
        slot = self._slots[session.id % len(self._slots)]
        attempt = 1
        while True:
            try:
                steps, code = slot.play(session, texts, self._config.deadline_s)
            except EnvironmentFailure:
                if attempt == self._max_attempts:
                    raise
                attempt += 1
            else:
                self.codes[session.environment.path] = code
                return steps

    def forget(self, session: Session) -> None:
        """A session is over."""
        self._slots[session.id % len(self._slots)].ended.append(str(session.id))

    def close(self) -> None:
        """End the processes, and what they play."""
        for slot in self._slots:
            slot.close()
        self._folder.cleanup()

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Slot:
    """A place for a process."""

    def __init__(self, setup: Setup, folder: str) -> None:
        self._setup = setup
        self._variables = {"TMPDIR": folder, "PYTHONHASHSEED": "0"}
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._is_closed = False
        self.ended: deque[str] = deque()
        """Sessions that are over, of which the process has not been told."""

    def play(
        self, session: Session, texts: Sequence[str] | None, deadline_s: float
    ) -> tuple[list[Step], str]:
        with self._lock:
            if self._is_closed:
                raise EnvironmentFailure(_CLOSED)
            try:
                process = self._process or self._start()
                if self._is_closed:  # By now; `close` may not have seen the process.
                    raise _Lost(_CLOSED)
                return process.play(self._request(session, texts), deadline_s)
            except (EOFError, ConnectionError):
                cause = cause_of_death(self._end(), self._setup.memory_bytes)
            except Garbled:
                cause = BROKEN_CONNECTION
            except _Lost as error:
                cause = str(error)
            except OSError as error:
                cause = f"its process could not be started: {failure_of(error)}"
            self._end()
            raise EnvironmentFailure(cause)

    def close(self) -> None:
        """From another thread than that which plays, too."""
        self._is_closed = True
        if (process := self._process) is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.process.pid, signal.SIGKILL)
        with self._lock:
            self._end()

    def _end(self) -> int:
        """Kill the process, if there is one; its exit code."""
        process, self._process = self._process, None
        return 0 if process is None else process.kill()

    def _start(self) -> _Process:
        """Raises OSError where there can be none."""
        self.ended.clear()
        process = self._process = _Process(*start_killable(_MODULE, self._variables))
        process.channel.send(self._setup)
        return process

    def _request(self, session: Session, texts: Sequence[str] | None) -> Request:
        ended = [self.ended.popleft() for _ in range(len(self.ended))]
        environment = session.environment
        return Request(
            secrets.token_hex(8),
            str(session.id),
            environment.path,
            environment.params,
            session.start,
            None if texts is None else list(texts),
            ended,
        )


class _Lost(Exception):
    """A request has no answer; why."""


@dataclass(slots=True, eq=False)
class _Process(Killable):
    messages: deque[list[Any]] = field(default_factory=deque)

    def play(self, request: Request, deadline_s: float) -> tuple[list[Step], str]:
        """The steps, and a digest of the code that made them.

        Raises:
            _Lost: it failed, or did not answer in time.
            EOFError, ConnectionError: the process has ended.
            Garbled: what came is no answer.
        """
        self.channel.send(request)
        steps = []
        while True:
            match self._next(deadline_s):
                case ["played", request.id, list(fields)]:
                    steps.append(_step(fields))
                case ["done", request.id, str(code)]:
                    return steps, code
                case ["failed", request.id, str(cause)]:
                    raise _Lost(one_line(cause))
                case _:
                    raise Garbled

    def _next(self, deadline_s: float) -> list[Any]:
        until = time.monotonic() + deadline_s
        poll = select.poll()
        while not self.messages:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise _Lost(f"deadline of {deadline_s:g} s")
            self.watch(poll)
            found = poll.poll(math.ceil(1000 * min(left_s, _MAX_POLL_S)))
            self.messages.extend(self.receive({descriptor for descriptor, _ in found}))
        return self.messages.popleft()


def _step(fields: list[Any]) -> Step:
    """Raises Garbled where it is none, _Lost where a reward is too large."""
    kinds = (str, float, bool, str, str, dict)
    if tuple(map(type, fields)) != kinds:
        raise Garbled
    step = Step(*fields)
    rewards = {step.role: step.reward, **step.rewards}
    if any(type(reward) is not float for reward in rewards.values()):
        raise Garbled
    if not all(abs(reward) <= LARGEST_REWARD for reward in (step.reward, *rewards.values())):
        raise _Lost(f"rewards of {rewards}, expected them within {LARGEST_REWARD:g}")
    return step
