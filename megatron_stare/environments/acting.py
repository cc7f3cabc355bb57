"""Environments as what answers calls: each turn of a model is one, of its whole text."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from megatron_stare.config.data import SourceConfig
from megatron_stare.config.environments import EnvironmentsConfig
from megatron_stare.data.tables import Row, Table
from megatron_stare.environments.environment import Start, Step
from megatron_stare.environments.pool import EnvironmentFailure, EnvironmentPool, Session
from megatron_stare.errors import UserError
from megatron_stare.tools.tool import Arguments, ToolResult
from megatron_stare.turns import LEFT_OUT
from megatron_stare.types import Prompt

_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class Played(ToolResult):
    """What an environment said to a turn; the text is the observation."""

    step: Step = field(default_factory=lambda: Step(""))


@dataclass(frozen=True, slots=True)
class Told:
    """A turn that was played before, and what is recorded of what the environment said to it."""

    text: str
    observation: str


class Acting:
    """The environments of a run, a `Tool` whose sessions are episodes.

    A call's arguments are `source` (its name), `start`, and `text`; those of calls before have
    `told`, and no `text`.

    Args:
        sources: with an environment, by name; with the keys that they have in the config.
    """

    name = "environment"
    remembers = True

    def __init__(
        self,
        config: EnvironmentsConfig,
        sources: Mapping[str, tuple[str, SourceConfig]],
        *,
        max_attempts: int,
    ) -> None:
        self._num_workers = config.workers
        self.sources = sources
        self.pool = EnvironmentPool(config, max_attempts=max_attempts)

    @property
    def schema(self) -> dict[str, Any]:
        """No model is told of it."""
        raise NotImplementedError("an environment is not called by name")

    @property
    def codes(self) -> dict[str, str]:
        """Digests of their code, by name."""
        return {f"code of {path}": code for path, code in sorted(self.pool.codes.items())}

    def start(self) -> None:
        """See that there are such environments.

        Raises:
            UserError: one cannot be made.
        """
        for key, source in self.sources.values():
            assert source.environment is not None, "each has one"
            try:
                self.pool.play(self.pool.open(source.environment, 0), None)
            except EnvironmentFailure as error:
                raise _unusable(key, source, str(error)) from None

    def rows(self, source: SourceConfig, key: str) -> Table:
        """What the environment begins with, a `question` for each seed, which is the `answer`.

        Args:
            key: of the source, for messages.

        Raises:
            UserError: it fails at one.
        """
        environment = source.environment
        assert environment is not None, "it generates"

        def row(number: int) -> Row:
            seed = seed_of(source.seed, number)
            session = self.pool.open(environment, seed)
            try:
                first, *_ = self.pool.play(session, [])
            except EnvironmentFailure as error:
                raise _unusable(key, source, f"it does not begin with {seed}: {error}") from None
            self.pool.forget(session)
            fields = {"question": first.observation, "answer": str(seed)}
            return Row(number, f"{environment.name}:{number}", fields)

        with ThreadPoolExecutor(self._num_workers) as threads:
            rows = list(threads.map(row, range(1, source.size + 1)))
        return Table(f"{key}: {environment.name}", rows)

    def start_of(self, prompt: Prompt) -> Start | None:
        """Where a prompt's episode begins; None where it has no environment."""
        if prompt.source not in self.sources:
            return None
        _, source = self.sources[prompt.source]
        return int(prompt.answer) if source.generates else prompt.answer

    def session(self, log: Sequence[Arguments] = ()) -> _Session:
        """Of an episode that has come so far."""
        return _Session(self, log)

    def close(self) -> None:
        """End the processes."""
        self.pool.close()


class _Session:
    def __init__(self, acting: Acting, log: Sequence[Arguments]) -> None:
        self._acting = acting
        self._told: list[Told] = [arguments["told"] for arguments in log]
        self._session: Session | None = None

    def call(self, arguments: Arguments, deadline_s: float) -> Played:
        """Within the deadline of each step that has to be played."""
        began = time.monotonic()
        pool, text = self._acting.pool, arguments["text"]
        if self._session is None:
            _, source = self._acting.sources[arguments["source"]]
            assert source.environment is not None, "it is a source of an environment"
            self._session = pool.open(source.environment, arguments["start"])
        try:
            steps = pool.play(self._session, [*(told.text for told in self._told), text])
            _check_same(self._told, steps[1:-1])
        except EnvironmentFailure as error:
            return Played("", False, str(error), time.monotonic() - began)
        step = steps[-1]
        self._told.append(Told(text, step.observation))
        return Played(step.observation, True, None, time.monotonic() - began, step)

    def close(self) -> None:
        if self._session is not None:
            self._acting.pool.forget(self._session)


def seed_of(seed: int, number: int) -> int:
    """Of the row of a number: rows of two seeds have nothing in common."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % _SEEDS


def _check_same(told: Sequence[Told], again: Sequence[Step]) -> None:
    """See that an environment that began again came to where it was.

    Raises:
        EnvironmentFailure: it said something else.
    """
    for number, (before, now) in enumerate(zip(told, again, strict=False), start=1):
        begins, left_out, _ = before.observation.partition(LEFT_OUT)
        is_same = now.observation.startswith(begins) if left_out else now.observation == begins
        if not is_same:
            raise EnvironmentFailure(
                f"it was begun again and said something else in turn {number}: it has to draw its "
                "randomness from its start"
            )


def _unusable(key: str, source: SourceConfig, cause: str) -> UserError:
    assert source.environment is not None, "it is its fault"
    return UserError(f"{key}.environment: {source.environment.path} cannot be used: {cause}")
