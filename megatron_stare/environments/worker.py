"""The process in which environments run: `python -m megatron_stare.environments.worker FD`.

    pool    Setup
    pool    Request                                what to play
    worker  ["played", id, step]                   of the beginning, and of each text that is new
    worker  ["done", id, digest of the code]       or ["failed", id, why]

What is asked for is a function of a start and texts. A session's environment is kept, so that of
the texts only the last is new; where it is not there, it begins again and is given all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from megatron_stare.environments.environment import Environment, Start, Step
from megatron_stare.errors import without_surrogates
from megatron_stare.rewards.child import (
    Connection,
    die_with_the_trainer,
    find_as_the_trainer,
    imported,
)
from megatron_stare.rewards.code import code_digest
from megatron_stare.rewards.verdict import as_number, failure_of
from megatron_stare.rewards.worker import EXIT_MEMORY
from megatron_stare.system import stop_signals
from megatron_stare.system.memory_limit import limit_memory

MAX_CHARACTERS = 100_000
"""Of an observation, or a state."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told first."""

    memory_bytes: int
    import_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What to play.

    path    of the class, `package.module:Name`
    texts   of all turns so far; None has the environment made, and nothing played
    ended   sessions that are over
    """

    id: str
    session: str
    path: str
    params: dict[str, Any]
    start: Start
    texts: list[str] | None
    ended: list[str]


@dataclass(slots=True)
class _Live:
    environment: Environment
    texts: list[str] = field(default_factory=list)

    def end(self) -> None:
        """Have it let go of what is not of this process, where it has anything."""
        close = getattr(self.environment, "close", None)
        if callable(close):
            with suppress(Exception):  # Nobody needs it any more.
                close()


def main(descriptor: int) -> None:
    """Play one request after the other, until the pool hangs up."""
    stop_signals.ignore()
    die_with_the_trainer()
    connection = Connection(descriptor)
    setup: Setup = connection.receive()
    find_as_the_trainer(setup.import_path)
    limit_memory(setup.memory_bytes)
    live: dict[str, _Live] = {}
    while True:
        request: Request = connection.receive()
        for session in request.ended:
            if ended := live.pop(session, None):
                ended.end()
        try:
            for step in _played(live, request):
                connection.send("played", request.id, [*step[:-1], dict(step.rewards)])
            connection.send("done", request.id, code_digest(request.path.partition(":")[0]))
        except MemoryError:
            os._exit(EXIT_MEMORY)
        except BaseException as error:  # It is foreign code: even SystemExit is its failure.
            connection.send("failed", request.id, failure_of(error))


def _played(live: dict[str, _Live], request: Request) -> Iterator[Step]:
    """The steps that are new, as they are made."""
    texts, found = request.texts, live.get(request.session)
    if texts is None:
        _made(request)
        return
    if found is None or not texts or found.texts != texts[:-1]:
        if found is not None:
            found.end()
        environment = _made(request)
        yield Step(_text(environment.reset(request.start)))
        found = live[request.session] = _Live(environment)
    for text in texts[len(found.texts) :]:
        step = _checked(found.environment.step(text))
        found.texts.append(text)
        yield step


def _made(request: Request) -> Environment:
    return imported(request.path)(**request.params)


def _checked(found: Any) -> Step:
    if not isinstance(found, tuple) or not 3 <= len(found) <= len(Step._fields):
        raise TypeError(f"step gave {found!r:.60}, expected (observation, reward, done)")
    step = Step(*found)
    return Step(
        _text(step.observation),
        as_number(step.reward, of="the environment"),
        bool(step.done),
        _text(step.role),
        _text(step.state),
        {_text(role): as_number(x, of="the environment") for role, x in step.rewards.items()},
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r:.60}")
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"expected {MAX_CHARACTERS} characters at most, found {len(value)}")
    return without_surrogates(value)


if __name__ == "__main__":
    # Run under the module's own name: what is pickled here must be found there.
    from megatron_stare.environments import worker

    worker.main(int(sys.argv[1]))
