"""Steps of generation in simulated time: the program's own sampler over servers that are a clock.

What a batch is made of (rounds, dynamic sampling, oversampling, partial rollouts, staleness) is
decided by `rollout.sampler.Sampler`, which does not know that its prompts are empty, that its
verifier throws dice and that its engine only counts. Tokens are counted in grains, so that a
response of 32k tokens is a tuple of 512.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from megatron_stare.config.rollout import RolloutConfig, SamplingConfig
from megatron_stare.engines.engine import Request
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.plan.job import Job
from megatron_stare.plan.lengths import response_length
from megatron_stare.plan.servers import Servers, ServerSpeed, Task
from megatron_stare.plan.training import Batch
from megatron_stare.rollout.sampler import Sampler
from megatron_stare.types import Group, Prompt, Reward, Sample

GRAIN = 64
"""Tokens that are counted as one."""


class Rollouts:
    """The batches of a run, one after another, and the seconds that each takes."""

    def __init__(self, job: Job, rollout: RolloutConfig, *, seed: int) -> None:
        limit = max(rollout.max_response_tokens // GRAIN, 1)
        config = rollout.model_copy(update={"max_response_tokens": limit})
        self.engine = SimulatedEngine(job, limit, seed=seed)
        self._prompt_tokens = job.rows.prompt_tokens
        self._sampler = Sampler(
            _Prompts(),
            self.engine,
            _Dice(job.assumptions.signal_share, seed),
            config,
            seed=seed,
        )
        self._reward_s = job.assumptions.reward_s

    def collect(self, step: int, weight_version: int) -> tuple[Batch, float, dict[str, float]]:
        """The batch of a step under some weights, its seconds, and the sampler's metrics."""
        self.engine.weight_version = weight_version
        self.engine.seconds = 0.0
        rollout = self._sampler.collect(step)
        samples = [sample for group in rollout.groups for sample in group.samples]
        batch = Batch(
            [self._prompt_tokens] * len(samples),
            [len(sample.token_ids) * GRAIN for sample in samples],
        )
        return batch, self.engine.seconds + self._reward_s, rollout.metrics


class SimulatedEngine:
    """An `Engine` that decodes nothing, in `seconds`."""

    def __init__(self, job: Job, limit: int, *, seed: int) -> None:
        self.weight_version = 0
        self.seconds = 0.0
        self.servers = Servers(ServerSpeed.of(job), job.num_servers)
        self._assumed, self._limit, self._seed = job.assumptions, limit, seed
        self._prompt_tokens = job.rows.prompt_tokens
        self._is_interrupted = False

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """The samples as they end; those that are interrupted with what they have."""
        self._is_interrupted = False
        tasks = [self._task(key, request) for key, request in enumerate(requests)]
        begin = self.seconds
        for key, seconds in self.servers.run(tasks):
            self.seconds = begin + seconds
            yield self._sample(requests[key], tasks[key].todo, "stop")
            if self._is_interrupted:
                break
        for key, done in self.servers.unfinished():
            yield self._sample(requests[key], done, "aborted")

    def interrupt(self) -> None:
        """Stop before the next end."""
        self._is_interrupted = True

    def update_weights(self, tensors: Iterable[Any], version: int) -> None:
        """There are none; the version is set from outside."""
        self.weight_version = version

    def state_dict(self) -> dict[str, Any]:
        """Nothing but weights and requests decides what comes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Nothing to close."""

    def _task(self, key: int, request: Request) -> Task:
        prompt, begun = self._prompt_tokens, request.begun
        before = 0 if begun is None else len(begun.token_ids) * GRAIN
        todo = max(self._length(request) * GRAIN - before, GRAIN)
        # Siblings share the cache of their prompt; what goes on is read again, the weights being
        # others.
        unread = prompt + before if before or request.index == 0 else 0
        return Task(key, prompt + before, todo, unread)

    def _length(self, request: Request) -> int:
        """In grains."""
        name = self._seed, request.prompt.uid, request.index
        return response_length(self._assumed, self._limit, *name)

    def _sample(self, request: Request, num_tokens: int, reason: Any) -> Sample:
        begun = request.begun
        grains = num_tokens // GRAIN
        versions = (self.weight_version,) * grains
        if begun is not None:
            versions = begun.weight_versions + versions
        tokens, mask = (0,) * len(versions), (True,) * len(versions)
        return Sample(
            request.prompt, request.index, "", tokens, (), mask, reason, versions, self.seconds
        )


class _Prompts:
    """Empty prompts without end."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self, count: int) -> list[Prompt]:
        first, self._drawn = self._drawn, self._drawn + count
        return [Prompt(str(i), "", "", (), "") for i in range(first, first + count)]

    def observe(self, judged: Sequence[Group]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _Dice:
    """A verifier that finds a share of the groups partly right, and the rest wrong."""

    def __init__(self, signal_share: float, seed: int) -> None:
        self._share, self._seed = signal_share, seed

    def score(self, samples: Sequence[Sample]) -> list[Reward]:
        return [
            Reward(correct, correct, None, 0.0)
            for sample in samples
            for correct in [float(sample.index == 0 and self._has_signal(sample.prompt.uid))]
        ]

    def _has_signal(self, uid: str) -> bool:
        return random.Random(derive_seed(self._seed, "verdict", uid)).random() < self._share
