"""An engine and a scorer that remember: what is in the bank is neither generated nor judged again.

The sampler sees no difference: a step that goes on after a crash asks for the same samples, and
gets those that were finished first, in the order they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.around import EngineAround
from megatron_stare.engines.engine import Engine, Request
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rollout.bank import Bank, Banked, Key
from megatron_stare.types import Reward, Sample

Remaining = Callable[[Sequence[Request], Collection[Key]], list[Request]]
"""What to ask an engine for, of requests of which some samples are there."""


def missing(requests: Sequence[Request], there: Collection[Key]) -> list[Request]:
    """Those that are not there: for an engine to which it does not matter what else it runs."""
    return [request for request in requests if request.key not in there]


class BankedEngine(EngineAround[Engine]):
    """`engine`, whose finished samples go through the bank.

    A sample of the bank is taken where no token of it is newer than the weights in the engine, or
    more than `max_staleness` steps older than those that the step starts from.
    """

    def __init__(
        self,
        engine: Engine,
        bank: Bank,
        *,
        max_staleness: int,
        remaining: Remaining,
        report: Callable[[str], None],
    ) -> None:
        super().__init__(engine)
        self._bank = bank
        self._max_staleness = max_staleness
        self._remaining = remaining
        self._report = report

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """See `Engine`."""
        self._is_interrupted = False
        samples, to_ask = self._split(requests)
        if samples:
            self._report(
                f"step {self._bank.step}: {len(samples)} of {len(requests)} samples had been "
                "generated before, and are taken from the rollout bank"
            )
        yield from samples
        if not to_ask or self._is_interrupted:
            return
        with closing(self._engine.generate(to_ask, sampling, seed=seed)) as generated:
            for sample in generated:
                if sample.finish_reason != "aborted":
                    self._bank.add_sample(sample)
                yield sample

    def _split(self, requests: Sequence[Request]) -> tuple[list[Sample], list[Request]]:
        """Samples of the bank, in the order they were finished, and what is to be generated."""
        banked = self._bank.samples
        usable = {key for key, sample in banked.items() if self._is_usable(sample)}
        to_ask = self._remaining(requests, usable)
        for request in to_ask:
            self._bank.forget_sample(request.key)
        prompts = {request.key: request.prompt for request in requests}
        return [
            sample.sample(prompts[key]) for key, sample in banked.items() if key in prompts
        ], to_ask

    def _is_usable(self, sample: Banked) -> bool:
        oldest = self._bank.step - 1 - self._max_staleness
        return all(oldest <= version <= self.weight_version for version in sample.versions)


class BankedScorer:
    """`scorer`, but for samples whose verdict is in the bank."""

    def __init__(self, scorer: Scorer, bank: Bank) -> None:
        self._scorer = scorer
        self._bank = bank

    def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """The reward of every sample, in their order."""
        known = [self._bank.reward_of(sample) for sample in samples]
        unknown = [s for s, reward in zip(samples, known, strict=True) if reward is None]
        rewards = self._scorer.score(unknown) if unknown else []
        if rewards:
            self._bank.add_rewards(unknown, rewards)
        judged = iter(rewards)
        return [next(judged) if reward is None else reward for reward in known]
