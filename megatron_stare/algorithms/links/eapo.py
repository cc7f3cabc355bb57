"""A larger advantage at the tokens where the policy hesitated."""

from __future__ import annotations

from megatron_stare.algorithms.advantages import without_rounding
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import PositiveWeight, Weight


class Eapo(Link[None]):
    """A + alpha sign(A) clip((H - mean H) / std H, -|A| / phi, |A| / phi), over the group's tokens.

    H is the entropy before the step, in nats. Which std it is the paper leaves open; where it is 0,
    nothing changes.

    Source: EAPO, later HAPO (hindsight), arXiv 2604.11056, equations 6 and 7
    Status: paper
    """

    needs = frozenset({OLD})

    alpha: Weight = 0.2
    """Share of the correction."""
    phi: PositiveWeight = 2.0
    """The correction is at most |A| / phi, before alpha."""
    unbiased: bool = False
    """Whether the std is that of a sample, and not of the population."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Correct the advantages."""
        groups, advantages = step.by(Grouping.by_group), credit.advantages
        entropies, counted = step[OLD].entropies, credit.counted
        mean = groups.of_tokens(groups.mean(entropies, counted))
        std = groups.of_tokens(groups.std(entropies, counted, unbiased=self.unbiased))
        score = (without_rounding(entropies - mean, entropies) / std).nan_to_num()
        bound = advantages.abs() / self.phi
        correction = score.clamp(-bound, bound)
        return credit.with_advantages(advantages + self.alpha * advantages.sign() * correction)
