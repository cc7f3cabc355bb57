"""A worker as the pool sees it: its process, what it was sent, and how far it is."""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from megatron_stare.rewards.channel import Garbled
from megatron_stare.rewards.killable import Killable, start_killable
from megatron_stare.rewards.verdict import Ending, Verdict
from megatron_stare.rewards.worker import Setup

_IMPORT_DEADLINE_S = 120.0
_READING_DEADLINE_S = 10.0
"""Of a process to read what it was sent: no verifier is at work then."""

Item = tuple[str, str]
"""A response and the reference answer."""
Stage = Literal["importing", "idle", "reading", "judging"]


@dataclass(slots=True)
class Sent:
    """An item under way: its place in the batch, and the id that its verdict must have."""

    place: int
    id: str


@dataclass(slots=True, eq=False)
class Worker(Killable):
    """A process, and the items sent to it that it has not answered: the first is running.

    since             when the stage, or the running item, began
    num_verdicts      that it has given
    leaves_something  whether threads or processes of items before are running in it
    import_error      why it cannot import the verifier, as it said before it ended
    """

    setup: Setup
    judging_deadline_s: float
    stage: Stage = "importing"
    items: deque[Sent] = field(default_factory=deque)
    since: float = field(default_factory=time.monotonic)
    num_verdicts: int = 0
    leaves_something: bool = False
    import_error: str | None = None

    @classmethod
    def start(cls, setup: Setup, deadline_s: float) -> Worker:
        """Start a process, which then imports the verifier; OSError where there can be none."""
        parts = start_killable("megatron_stare.rewards.worker")
        worker = cls(*parts, setup, deadline_s)
        with suppress(ConnectionError):  # It is found dead when it is listened to.
            worker.channel.send(setup)
        return worker

    @property
    def is_fresh(self) -> bool:
        """Whether the next verification is in a process in which none has run."""
        is_unused = self.num_verdicts == 0 or self.setup.isolation == "process"
        return is_unused and not self.items

    @property
    def is_judging_its_first(self) -> bool:
        """Whether what happens is the running item's doing alone."""
        return self.stage == "judging" and self.num_verdicts == 0

    @property
    def is_busy(self) -> bool:
        """Whether something is awaited from it."""
        return self.stage != "idle"

    @property
    def deadline_s(self) -> float:
        """Seconds that the stage, or the running item, may take."""
        return {
            "importing": _IMPORT_DEADLINE_S,
            "idle": math.inf,
            "reading": _READING_DEADLINE_S,
            "judging": self.judging_deadline_s,
        }[self.stage]

    @property
    def time_left_s(self) -> float:
        """Before the deadline."""
        return self.since + self.deadline_s - time.monotonic()

    def send(self, places: Sequence[int], items: Sequence[Item]) -> None:
        """Have it judge the items at these places; if it is dead, that is found later."""
        self.items.extend(Sent(place, secrets.token_hex(8)) for place in places)
        self._enter("reading")
        with suppress(ConnectionError):
            self.channel.send([(sent.id, *items[sent.place]) for sent in self.items])

    def take_ready(self, message: Sequence[Any]) -> str:
        """Of `["ready", digest]` the digest.

        Raises:
            Garbled: it is not that.
        """
        _require(self.stage == "importing" and [*map(type, message)] == [str, str])
        self._enter("idle")
        return message[1]

    def take_begun(self, message: Sequence[Any]) -> None:
        """`["begun"]`: it has read what was sent, and the first item is running.

        Raises:
            Garbled: it is not that.
        """
        _require(self.stage == "reading" and len(message) == 1)
        self._enter("judging")

    def take_verdict(self, message: Sequence[Any]) -> tuple[int, Verdict]:
        """The place of the running item, and the verdict on it.

        Raises:
            Garbled: it is not a verdict on that item.
        """
        _require(self.stage == "judging" and len(message) == 8)
        _, identity, value, matches, failure, seconds, ending, leaves_something = message
        _require(identity == self.items[0].id)
        _require(_is_finite(value) and _is_finite(seconds))
        _require(isinstance(matches, bool) and isinstance(leaves_something, bool))
        _require(ending in get_args(Ending))
        _require(failure is None if ending == "verdict" else isinstance(failure, str))
        self.num_verdicts += 1
        self.leaves_something = leaves_something
        place = self.items.popleft().place
        self._enter("judging" if self.items else "idle")
        return place, Verdict(value, matches, failure, seconds, ending)

    def _enter(self, stage: Stage) -> None:
        self.stage, self.since = stage, time.monotonic()


def _require(condition: bool) -> None:
    if not condition:
        raise Garbled


def _is_finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)
