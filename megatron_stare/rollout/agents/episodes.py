"""Episodes that agents play: what the engine may be asked (`More`), and what has ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Literal, NamedTuple

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.agents.chat_form import ChatForm
from megatron_stare.rollout.agents.conversation import Conversation, as_reward
from megatron_stare.rollout.agents.endpoint import Endpoint
from megatron_stare.rollout.agents.refusal import Refusal
from megatron_stare.rollout.agents.tries import Try
from megatron_stare.rollout.bank import Key, key_of
from megatron_stare.rollout.workflow.buffer import Buffer
from megatron_stare.turns import Turn
from megatron_stare.types import Sample

_GONE = "the episode is over: the run goes on without it"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all episodes of a call have in common; `call` runs an agent until it returns."""

    form: ChatForm
    buffer: Buffer
    endpoint: Endpoint
    sampling: SamplingConfig
    call: Callable[[Try, str], Any]
    max_attempts: int
    deadline_s: float


class _Asked(NamedTuple):
    """An agent waits for the policy to go on with an episode."""

    by: Try
    request: Request
    answer: Future[Sample]


class _Ended(NamedTuple):
    """An agent has returned, or failed, which says nothing of the policy."""

    by: Try
    sample: Sample
    failure: str | None


class Episodes:
    """Those of one call. `failures` counts tries that failed, by cause."""

    def __init__(self, setting: Setting, requests: Sequence[Request]) -> None:
        self._setting = setting
        self._place = {request.key: place for place, request in enumerate(requests)}
        self._events: SimpleQueue[_Asked | _Ended | None] = SimpleQueue()
        self._tell: Callable[[], None] = lambda: None
        self._at_work: dict[Key, Try] = {}
        """Whose agents may ask, or end, at any time."""
        self._waiting: dict[Key, Try] = {}
        """Whose requests the engine has, or will be given."""
        self._known: list[Request] = []
        self._left: dict[Key, _Ended] = {}
        """Ends of agents that did not wait for what the engine still has."""
        self._ended: list[Sample] = []
        self._is_interrupted = False
        self._is_stopped = False
        self.failures: Counter[str] = Counter()
        for request in requests:
            self._begin(request, 0)

    def take(self, wait: Literal["no", "any", "all"]) -> list[Request]:
        """See `More`. In the order of the requests that the episodes began with."""
        if wait != "no" and not self._known:  # The engine has nothing under way.
            self._give_up_unanswered()
        while not self._is_interrupted and self._at_work:
            must_wait = wait == "all" or (wait == "any" and not self._known)
            if not must_wait and self._events.empty():
                break
            self._see()
        known, self._known = self._known, []
        return [] if self._is_interrupted else sorted(known, key=lambda r: self._place[r.key])

    def when_known(self, tell: Callable[[], None]) -> None:
        """See `More`."""
        self._tell = tell
        tell()

    def take_answer(self, sample: Sample) -> None:
        """A sample of the engine's; one that was stopped ends its agent."""
        key = key_of(sample)
        one = self._waiting.pop(key)
        if sample.finish_reason == "aborted":
            self._shut(one)
        elif key in self._left:
            self._end(*self._left.pop(key))
        else:
            self._at_work[key] = one
            one.answer(sample)

    def take_ended(self) -> list[Sample]:
        """Samples that are to be given."""
        ended, self._ended = self._ended, []
        return sorted(ended, key=lambda sample: self._place[key_of(sample)])

    def interrupt(self) -> None:
        """From another thread, too: nothing more is asked, and no agent waited for."""
        self._is_interrupted = True
        self._events.put(None)

    def stop(self) -> None:
        """End all that is under way: no agent is answered any more."""
        self._is_stopped, self._tell = True, lambda: None
        for one in (*self._at_work.values(), *self._waiting.values()):
            self._shut(one)
        while not self._events.empty():
            if isinstance(event := self._events.get(), _Asked):
                event.answer.set_exception(Refusal(_GONE, status=503))

    def _begin(self, request: Request, number: int) -> None:
        one = Try(request, number)
        self._at_work[request.key] = one
        name = f"agent {request.prompt.uid}:{request.index}"
        Thread(target=self._run, args=(one,), name=name, daemon=True).start()

    def _run(self, one: Try) -> None:
        """In the thread of an agent."""
        setting = self._setting

        def complete(request: Request) -> Sample:
            answer: Future[Sample] = Future()
            self._post(_Asked(one, request, answer))
            if self._is_stopped and not answer.done():  # Nobody looks at events any more.
                raise Refusal(_GONE, status=503)
            return answer.result()

        parts = setting.form, setting.buffer, setting.sampling
        conversation = Conversation(one.request, *parts, complete)
        one.key = setting.endpoint.open(conversation.chat)
        value, failure = None, None
        try:
            value = setting.call(one, one.key)
        except BaseException as error:  # An agent may raise anything, in its own thread.
            if not conversation.has_met_a_limit:
                failure = _brief(error)
        setting.endpoint.shut(one.key)
        sample = conversation.sample
        if failure is None:
            try:
                sample = conversation.ended(as_reward(value))
            except ValueError as error:
                failure = str(error)
        self._post(_Ended(one, sample, failure))

    def _post(self, event: _Asked | _Ended) -> None:
        self._events.put(event)
        self._tell()

    def _see(self) -> None:
        """The next event; agents that take too long meanwhile have failed."""
        first = min(one.since for one in self._at_work.values())
        left = first + self._setting.deadline_s - time.monotonic()
        try:
            event = self._events.get(timeout=max(left, 0.0))
        except Empty:
            self._end_late()
            return
        if event is None:
            return
        if event.by.is_over:
            if isinstance(event, _Asked):
                event.answer.set_exception(Refusal(_GONE, status=503))
            return
        key = event.by.request.key
        self._at_work.pop(key, None)
        if isinstance(event, _Asked):
            event.by.pending = event.answer
            self._waiting[key] = event.by
            self._known.append(event.request)
        elif key in self._waiting:
            self._left[key] = event
        else:
            self._end(*event)

    def _end_late(self) -> None:
        now, limit = time.monotonic(), self._setting.deadline_s
        for key, one in [*self._at_work.items()]:
            if now - one.since >= limit:
                del self._at_work[key]
                self._end(one, one.request.sample, f"nothing came from it for {limit:g} s")

    def _give_up_unanswered(self) -> None:
        """Requests that the engine has taken, and that no server has answered."""
        for key, one in [*self._waiting.items()]:
            del self._waiting[key]
            if key in self._left:
                self._end(*self._left.pop(key))
            else:
                self._at_work[key] = one
                one.refuse("no server could answer")

    def _end(self, one: Try, sample: Sample, failure: str | None) -> None:
        self._shut(one)
        if failure is None:
            self._ended.append(sample)
            return
        self.failures[failure] += 1
        if one.number + 1 < self._setting.max_attempts:
            self._begin(one.request, one.number + 1)
            return
        size = len(sample.token_ids)
        turn = Turn(size, size, "observation", failure=f"the agent: {failure}")
        self._ended.append(replace(sample, turns=(*sample.turns, turn), finish_reason="failed"))

    def _shut(self, one: Try) -> None:
        one.is_over = True
        self._setting.endpoint.shut(one.key)
        one.refuse(_GONE)


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
