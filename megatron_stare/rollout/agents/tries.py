"""One try at an episode: the thread of an agent, and the thread of the engine's caller between."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from megatron_stare.engines.engine import Request
from megatron_stare.rollout.agents.refusal import Refusal
from megatron_stare.types import Sample


@dataclass(eq=False, slots=True)
class Try:
    """What the engine's side knows of an agent at work.

    number    of tries before
    key       of its API; empty until it has one
    since     when it was answered last, or begun, in seconds of the monotonic clock
    is_over   whether nothing of it counts any more
    pending   what it waits for, if it waits
    """

    request: Request
    number: int
    key: str = ""
    since: float = field(default_factory=time.monotonic)
    is_over: bool = False
    pending: Future[Sample] | None = None

    def answer(self, sample: Sample) -> None:
        """Give the agent what the engine has said."""
        self._settle().set_result(sample)

    def refuse(self, why: str) -> None:
        """Tell the agent that there is no answer, where it waits for one."""
        if self.pending is not None:
            self._settle().set_exception(Refusal(why, status=503))

    def _settle(self) -> Future[Sample]:
        pending, self.pending = self.pending, None
        self.since = time.monotonic()
        assert pending is not None, "it waits"
        return pending
