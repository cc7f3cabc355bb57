"""Problems that the policy solves neither always nor never, by what came of them last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pydantic import Field, model_validator

from megatron_stare.algorithms.hooks import Curriculum
from megatron_stare.types import Group


@dataclass(frozen=True, slots=True)
class PassRates:
    """Of the problems that were asked, by the last time."""

    of: dict[int, float]


class Band(Curriculum[PassRates]):
    """Problems of which low <= pass rate <= high, and those that were not asked yet, at random.

    Where there are too few of them, the others follow, at random.

    Source: curriculum by accuracy, as in Kimi k1.5, arXiv 2501.12599
    Status: derived
    """

    low: float = Field(default=0.1, ge=0, le=1)
    """Lowest share of right answers."""
    high: float = Field(default=0.9, ge=0, le=1)
    """Highest share of right answers."""
    again: float = Field(default=0.05, ge=0, le=1)
    """Chance of a problem outside to be asked as if it were inside: the policy changes."""

    @model_validator(mode="after")
    def _is_a_band(self) -> Band:
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}, expected it below")
        return self

    def start(self) -> PassRates:
        """Nothing is known."""
        return PassRates({})

    def draw(
        self, count: int, problems: Sequence[int], state: PassRates, random: Random
    ) -> list[int]:
        """Those in the band, then the others, each in a random order."""

        def is_outside(problem: int) -> bool:
            rate = state.of.get(problem)
            is_inside = rate is None or self.low <= rate <= self.high
            return not is_inside and random.random() >= self.again

        shuffled = random.sample(problems, len(problems))
        return sorted(shuffled, key=is_outside)[:count]

    def observe(self, asked: Sequence[tuple[int, Group]], state: PassRates) -> PassRates:
        """The pass rates of a step in the place of those before."""
        rates = dict(state.of)
        for problem, group in asked:
            verdicts = [reward.correct for reward in group.judged.rewards]
            if verdicts:
                rates[problem] = sum(verdicts) / len(verdicts)
        return PassRates(rates)
