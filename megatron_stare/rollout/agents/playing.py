"""An engine whose samples are what agents of a user's own have the policy say.

      requests       agent(base_url, api_key, row), a thread each
    -----------> start --------------------------------------------> returns ---> sample
                        | chat                        ^ answer
                        v                             |
                     conversation --> More.take --> the engine below

The engine is fed, and samples are given, in the thread of whoever takes samples. An agent that
raises, or takes too long, is begun anew, and then its sample is left out: it is no reward. What is
stopped does not come: an agent cannot be gone on with.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.agent import AgentConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.around import EngineAround
from megatron_stare.engines.engine import ContinuingEngine, Request
from megatron_stare.errors import UserError
from megatron_stare.rollout.agents.chat_form import ChatForm
from megatron_stare.rollout.agents.endpoint import Endpoint
from megatron_stare.rollout.agents.episodes import Episodes, Setting
from megatron_stare.rollout.agents.tries import Try
from megatron_stare.rollout.workflow.buffer import Buffer
from megatron_stare.system.imports import import_own
from megatron_stare.types import Prompt, Sample

Agent = Callable[..., Any]


class AgentEngine(EngineAround[ContinuingEngine]):
    """`engine`, whose samples agents make. `report` is told how often they failed, and why.

    Raises UserError where there is no such agent, or its endpoint cannot listen.
    """

    def __init__(
        self,
        engine: ContinuingEngine,
        config: AgentConfig,
        form: ChatForm,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_attempts: int,
        report: Callable[[str], None],
    ) -> None:
        super().__init__(engine)
        self._agent = find_agent(config)
        self._config = config
        self._form = form
        self._buffer = Buffer(tokenizer)
        self._max_attempts = max_attempts
        self._report = report
        self._endpoint = Endpoint(config.host, config.port, config.model)
        self._episodes: Episodes | None = None

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """See `Engine`."""
        self._is_interrupted = False
        setting = Setting(
            *(self._form, self._buffer, self._endpoint, sampling, self._call),
            max_attempts=self._max_attempts,
            deadline_s=self._config.deadline_s,
        )
        for batch in self._engine.batches(requests):
            if self._is_interrupted:
                return
            self._episodes = Episodes(setting, batch)
            if self._is_interrupted:
                self._episodes.interrupt()
            try:
                yield from self._play(self._episodes, sampling, seed)
            finally:
                self._episodes.stop()
                self._tell_failures(self._episodes.failures)

    def interrupt(self) -> None:
        """See `Engine`."""
        self._is_interrupted = True
        if (episodes := self._episodes) is not None:
            episodes.interrupt()
        super().interrupt()

    def close(self) -> None:
        """See `Engine`."""
        self._endpoint.close()
        super().close()

    def _play(
        self, episodes: Episodes, sampling: SamplingConfig, seed: int
    ) -> Generator[Sample, None, None]:
        generating = self._engine.generate((), sampling, seed=seed, more=episodes)
        with closing(generating) as samples:
            for sample in samples:
                episodes.take_answer(sample)
                yield from episodes.take_ended()
        yield from episodes.take_ended()

    def _call(self, one: Try, api_key: str) -> Any:
        """In a thread of its own."""
        url, row = self._endpoint.base_url, row_of(one.request.prompt)
        value = self._agent(base_url=url, api_key=api_key, row=row)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        return value

    def _tell_failures(self, failures: Counter[str]) -> None:
        if failures:
            named = ", ".join(f"{n} with {cause}" for cause, n in failures.most_common(3))
            self._report(f"{failures.total()} tries of the agent failed: {named}")


def find_agent(config: AgentConfig) -> Agent:
    """The user's function.

    Raises:
        UserError: it cannot be had.
    """
    assert config.function is not None, "whoever asks has one"
    try:
        agent = import_own(config.function)
    except ValueError as error:
        raise UserError(
            f"workflow.agent.function={config.function}: cannot be imported ({error})"
        ) from None
    if not callable(agent):
        raise UserError(
            f"workflow.agent.function={config.function}: is a {type(agent).__name__}, expected "
            "something to call with base_url, api_key and row"
        )
    return agent


def row_of(prompt: Prompt) -> dict[str, str]:
    """What an agent is told of its problem."""
    return {
        "prompt": prompt.text,
        "answer": prompt.answer,
        "name": prompt.row,
        "source": prompt.source,
    }


async def _awaited(value: Any) -> Any:
    return await value
