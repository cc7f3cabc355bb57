"""What an agent and the policy say to each other in one episode, as the tokens of one sample.

    prompt           the token that every conversation begins with
    observation      the first messages, as the template writes them
    model            an answer
    observation      what the agent said to it: results of tools, or a user
    model            ...

A conversation only grows. A request has to begin with what was said before, word for word; its
last one once more is answered as it was, since clients try again. Whoever says something else has
rewritten history, and is refused (docs/decisions/0034).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any
from uuid import uuid4

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.rollout.agents.chat_form import ChatForm
from megatron_stare.rollout.agents.protocol import ChatAnswer, ChatRequest, as_it_comes_back
from megatron_stare.rollout.agents.refusal import Refusal
from megatron_stare.rollout.workflow.buffer import Buffer, end_of, room_for
from megatron_stare.turns import Turn
from megatron_stare.types import FinishReason, Sample

Complete = Callable[[Request], Sample]
"""Has the engine continue an episode; raises Refusal where it cannot."""


class Conversation:
    """Of one try at an episode; its requests come from threads, one at a time.

    sample  what is recorded: it ends with an answer of the model, or is empty
    """

    def __init__(
        self,
        request: Request,
        form: ChatForm,
        buffer: Buffer,
        sampling: SamplingConfig,
        complete: Complete,
    ) -> None:
        self._request = request
        self._form = form
        self._buffer = buffer
        self._sampling = sampling
        self._complete = complete
        self._lock = Lock()
        self._asked: tuple[Any, ...] = ()
        self._said: tuple[Any, ...] = ()
        self._tools: tuple[Any, ...] = ()
        self._answer: ChatAnswer | None = None
        self._ending: FinishReason | None = None
        self.sample = request.sample

    def chat(self, asked: ChatRequest) -> ChatAnswer:
        """The model's answer.

        Raises:
            Refusal: there is none, and nothing is recorded of it.
        """
        if not self._lock.acquire(blocking=False):
            raise Refusal("another request of this episode is under way", status=409)
        try:
            if self._answer is not None and asked.messages == self._asked:
                return self._answer
            return self._go_on(asked)
        finally:
            self._lock.release()

    def ended(self, value: float | None) -> Sample:
        """The sample of an agent that has ended, with what it says that it has earned.

        Raises:
            ValueError: there is nothing to learn from, or no such number.
        """
        sample = self.sample
        if self._answer is None:
            raise ValueError("the agent has ended, and the model was never asked")
        is_cut = sample.turns[-1].taken_as == "cut" and room_for(sample, self._sampling) <= 0
        sample = replace(sample, finish_reason=self._ending or ("length" if is_cut else "stop"))
        if value is None:
            return sample
        *before, last = sample.turns
        earned = replace(last, taken_as="action", reward=value)
        return replace(sample, turns=(*before, earned))

    @property
    def has_met_a_limit(self) -> bool:
        """Whether it was refused a further turn because of the run's limits."""
        return self._ending is not None

    def _go_on(self, asked: ChatRequest) -> ChatAnswer:
        num_turns = sum(turn.kind == "model" for turn in self.sample.turns)
        if num_turns >= self._sampling.turns.max_turns:
            self._end("turns", f"max_turns={num_turns} were taken")
        episode = self._with_messages(asked)
        num_prompt = len(episode.token_ids) + len(episode.prompt.token_ids)
        room = room_for(episode, self._sampling)
        room = room if asked.max_tokens is None else min(room, asked.max_tokens)
        request = replace(self._request, begun=episode, max_tokens=room)
        sample = self._complete(request)
        start = end_of(sample.turns)
        own = sample.token_ids[start:]
        content, calls = self._form.said(own, asked.tools)
        is_cut = sample.finish_reason == "length"
        taken_as = "cut" if is_cut else "call" if calls else "answer"
        self.sample = self._buffer.with_turn(sample, taken_as, "aborted", num_calls=len(calls))
        self._answer = ChatAnswer(
            content,
            tuple((f"call_{uuid4().hex[:24]}", call) for call in calls),
            "length" if is_cut else "tool_calls" if calls else "stop",
            num_prompt,
            len(own),
        )
        self._asked, self._tools = asked.messages, asked.tools
        self._said = as_it_comes_back(asked.messages, self._answer)
        return self._answer

    def _with_messages(self, asked: ChatRequest) -> Sample:
        """The episode with what the agent has to say put in; it is recorded once it is answered."""
        new = asked.messages[len(self._said) :]
        if not self._said:
            first, *ids = self._form.opening(new, asked.tools)
            if (first,) != self.sample.prompt.token_ids:
                raise Refusal("messages: the template begins them with another token than others")
        else:
            self._check_extends(asked)
            last = self.sample.token_ids[-1]
            ids = self._form.going_on(new, asked.tools, last_token=last)
        size = len(self.sample.token_ids)
        text = "\n".join(message["content"] for message in new)
        turn = Turn(size, size, "observation", text, num_ok=self._num_calls_answered)
        episode = self._buffer.put_in(self.sample, tuple(ids), turn, self._sampling)
        if episode.finish_reason != "aborted":
            limit = self._sampling.max_response_tokens
            self._end(
                episode.finish_reason,
                f"{size + len(ids)} tokens leave no room for an answer within {limit}, or the "
                "episode has taken its seconds",
                code="context_length_exceeded",
            )
        return episode

    @property
    def _num_calls_answered(self) -> int:
        return self.sample.turns[-1].num_calls if self.sample.turns else 0

    def _check_extends(self, asked: ChatRequest) -> None:
        for place, (before, now) in enumerate(zip(self._said, asked.messages, strict=False)):
            if before != now:
                raise _rewritten(f"messages[{place}] is not what was said before")
        new = asked.messages[len(self._said) :]
        if not new:
            raise _rewritten("messages end before the model's last answer, or with it")
        if asked.tools != self._tools:
            raise _rewritten("tools are not those of the conversation's other requests")
        for place, message in enumerate(new, start=len(self._said)):
            if message["role"] not in ("user", "tool"):
                raise _rewritten(
                    f"messages[{place}] is of role {message['role']!r} behind the model's turn, "
                    "expected user or tool"
                )

    def _end(self, reason: FinishReason, why: str, code: str | None = None) -> None:
        self._ending = reason
        raise Refusal(f"the episode ends: {why}", code=code)


def as_reward(value: Any) -> float | None:
    """What an agent returned, as the reward of its episode; None leaves that to the verifier.

    Raises:
        ValueError: it is no finite number.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"the agent returned {value!r:.80}, expected a number, or None")


def _rewritten(how: str) -> Refusal:
    return Refusal(
        f"history was rewritten: {how}; an episode is one conversation that only grows",
        code="history_rewritten",
    )
