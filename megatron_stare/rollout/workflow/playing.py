"""An engine that plays: episodes of a workflow, on an engine that continues tokens.

      requests          Ask                 the engine below        Calls
    -----------> next -------> More.take ---------------> completed -------> threads of tools
                  ^                                           |                    |
                  +------------------ episode <---------------+------ observed <---+

The workflow runs in the thread of whoever takes samples; only tools have threads. What is stopped
comes as it stands, with calls that were written and not answered: they are made when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import Literal

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.around import EngineAround
from megatron_stare.engines.engine import ContinuingEngine, Request
from megatron_stare.rollout.bank import Key, key_of
from megatron_stare.rollout.workflow.toolbox import Hands, Toolbox
from megatron_stare.rollout.workflow.workflow import Ask, Calls, Workflow
from megatron_stare.tools.tool import ToolResult
from megatron_stare.types import Sample


class PlayingEngine(EngineAround[ContinuingEngine]):
    """`engine`, whose samples are episodes. `tools` are the caller's, and are closed by it."""

    def __init__(self, engine: ContinuingEngine, workflow: Workflow, tools: Toolbox) -> None:
        super().__init__(engine)
        self._workflow = workflow
        self._tools = tools
        self._episodes: _Episodes | None = None

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """See `Engine`."""
        self._is_interrupted = False
        for batch in self._engine.batches(requests):
            if self._is_interrupted:
                return
            with self._tools.open_hands() as hands:
                self._episodes = _Episodes(self._workflow, sampling, hands, batch)
                if self._is_interrupted:
                    self._episodes.interrupt()
                yield from self._play(self._episodes, sampling, seed)

    def interrupt(self) -> None:
        """See `Engine`."""
        self._is_interrupted = True
        if (episodes := self._episodes) is not None:
            episodes.interrupt()
        super().interrupt()

    def _play(
        self, episodes: _Episodes, sampling: SamplingConfig, seed: int
    ) -> Generator[Sample, None, None]:
        first = episodes.take("no")
        generating = self._engine.generate(first, sampling, seed=seed, more=episodes)
        with closing(generating) as samples:
            for sample in samples:
                episodes.take_answer(sample)
                yield from episodes.take_ended()
        episodes.stop()
        yield from episodes.take_ended()


class _Episodes:
    """Those of one call: what the engine may be asked (`More`), and what has ended."""

    def __init__(
        self,
        workflow: Workflow,
        sampling: SamplingConfig,
        hands: Hands,
        requests: Sequence[Request],
    ) -> None:
        self._workflow = workflow
        self._sampling = sampling
        self._hands = hands
        self._place = {request.key: place for place, request in enumerate(requests)}
        self._rules = {request.key: request.rule for request in requests}
        self._under_way: dict[Key, Sample] = {}
        self._known: list[Request] = []
        self._ended: list[Sample] = []
        self._observations: SimpleQueue[tuple[Key, list[ToolResult]] | None] = SimpleQueue()
        self._num_called = 0
        """Episodes whose tools are at work."""
        self._is_interrupted = False
        for request in requests:
            self._go_on(request.sample)

    def take(self, wait: Literal["no", "any", "all"]) -> list[Request]:
        """See `More`. In the order of the requests that the episodes began with."""
        while not self._is_interrupted and self._num_called:
            must_wait = wait == "all" or (wait == "any" and not self._known)
            if not must_wait and self._observations.empty():
                break
            self._take_observation()
        known, self._known = self._known, []
        return [] if self._is_interrupted else sorted(known, key=lambda r: self._place[r.key])

    def when_known(self, tell: Callable[[], None]) -> None:
        """See `More`."""
        self._hands.when_done(tell)

    def take_answer(self, sample: Sample) -> None:
        """A sample of the engine's."""
        if sample.finish_reason == "aborted":
            self._under_way[key_of(sample)] = sample
        else:
            self._go_on(self._workflow.completed(sample, self._sampling))

    def take_ended(self) -> list[Sample]:
        """Samples that are to be given."""
        ended, self._ended = self._ended, []
        return sorted(ended, key=lambda sample: self._place[key_of(sample)])

    def interrupt(self) -> None:
        """From another thread, too: nothing more is asked, and no tool waited for."""
        self._is_interrupted = True
        self._observations.put(None)

    def stop(self) -> None:
        """Of an interrupted call, what is under way has ended as it stands.

        What is under way otherwise was not answered.
        """
        if self._is_interrupted:
            self._ended += self._under_way.values()
        self._under_way.clear()

    def _take_observation(self) -> None:
        found = self._observations.get()
        if found is not None:
            key, results = found
            self._num_called -= 1
            self._go_on(self._workflow.observed(self._under_way[key], results, self._sampling))

    def _go_on(self, episode: Sample) -> None:
        key = key_of(episode)
        self._under_way[key] = episode
        step = self._workflow.next(episode, self._sampling)
        if step is None:
            self._ended.append(self._under_way.pop(key))
            self._hands.let_go(key)
        elif isinstance(step, Ask):
            asked = (episode.prompt, episode.index, episode, step.max_tokens, step.stop_ids)
            self._known.append(Request(*asked, self._rules[key]))
        elif not self._is_interrupted:
            self._call(key, step)

    def _call(self, key: Key, calls: Calls) -> None:
        self._num_called += 1
        self._hands.call(key, calls, lambda results: self._observations.put((key, results)))
