"""Problems about whose outcome most is to be learned, by sampled beliefs of how hard they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from pydantic import Field

from megatron_stare.algorithms.beta import beta_cdf
from megatron_stare.algorithms.hooks import Curriculum
from megatron_stare.types import Group

_LEAST_PROPENSITY = 1e-12
"""It has been drawn: rounding shall not say that it could not be."""


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Of the problems that were asked: a and b of a Beta distribution over being solved."""

    of: dict[int, tuple[float, float]]


class Vade(Curriculum[Beliefs]):
    """The largest p (1 - p), p ~ Beta(a, b); a += right, b += wrong, older evidence fades.

    A problem that was never asked has a = b = 1, and evidence is what is beyond that. The share
    `uniform` of the problems is drawn at random whatever is believed of them, so that beliefs of
    what seems too easy or too hard can be found to be wrong. Each is drawn with a probability that
    is known, given the scores of the others, and that dumped samples hold: what came of each over
    it says what would come of all (`reward/accuracy_of_all`). The paper's score and its constants
    are not public: the variance of one verdict is the score here, and a fade is a factor a step.

    Source: VADE, arXiv 2511.18902
    Status: derived
    """

    asked_fade: float = Field(default=0.9, ge=0, le=1)
    """What remains of a problem's evidence when it is asked again."""
    fade: float = Field(default=0.99, ge=0, le=1)
    """What remains of everybody's evidence after a step: the policy is another."""
    uniform: float = Field(default=0.1, ge=0, le=1)
    """Share of the problems that are drawn at random."""

    def start(self) -> Beliefs:
        """Nothing is known."""
        return Beliefs({})

    def draw(
        self, count: int, problems: Sequence[int], state: Beliefs, random: Random
    ) -> Mapping[int, float]:
        """Those of the highest score, then those at random, with their propensities."""

        def score(problem: int) -> float:
            p = random.betavariate(*state.of.get(problem, (1.0, 1.0)))
            return p * (1 - p)

        scores = {problem: score(problem) for problem in problems}
        ranked = sorted(problems, key=lambda problem: -scores[problem])
        num_chosen = count - round(count * self.uniform)
        chosen, others = ranked[:num_chosen], ranked[num_chosen:]
        drawn = random.sample(others, count - num_chosen)
        if not others:
            return dict.fromkeys(chosen, 1.0)
        by_chance = len(drawn) / len(others)
        # What a score has to be above to be chosen, with those that the other problems have.
        bar, own_bar = scores[chosen[-1]] if chosen else math.inf, scores[others[0]]

        def propensity(problem: int, bar: float) -> float:
            above = _chance_above(bar, state.of.get(problem, (1.0, 1.0)))
            return max(above + (1 - above) * by_chance, _LEAST_PROPENSITY)

        return {
            **{problem: propensity(problem, own_bar) for problem in chosen},
            **{problem: propensity(problem, bar) for problem in drawn},
        }

    def observe(self, asked: Sequence[tuple[int, Group]], state: Beliefs) -> Beliefs:
        """Beliefs with the verdicts of a step; one counts by how right it is."""
        of = dict(state.of)
        for problem, group in asked:
            verdicts = [reward.correct for reward in group.judged.rewards]
            a, b = _faded(of.get(problem, (1.0, 1.0)), self.asked_fade)
            of[problem] = a + sum(verdicts), b + len(verdicts) - sum(verdicts)
        return Beliefs({i: _faded(belief, self.fade) for i, belief in of.items()})


def _chance_above(bar: float, belief: tuple[float, float]) -> float:
    """P(p (1 - p) > bar), p ~ Beta(a, b)."""
    half = math.sqrt(max(0.25 - bar, 0.0))
    return beta_cdf(0.5 + half, *belief) - beta_cdf(0.5 - half, *belief)


def _faded(belief: tuple[float, float], fade: float) -> tuple[float, float]:
    a, b = belief
    return 1 + fade * (a - 1), 1 + fade * (b - 1)
