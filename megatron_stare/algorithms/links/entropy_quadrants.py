"""Learning from one quadrant of tokens alone: right or wrong, of high entropy or of low."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from megatron_stare.algorithms.advantages import without_rounding
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Metric, Step
from megatron_stare.algorithms.needs import OLD

Quadrant = Literal["PHR", "PLR", "NHR", "NLR"]
"""Positive or negative reward, high or low entropy."""


class EntropyQuadrants(Link[None]):
    """weight * 1 in the quadrant that is kept, else 0: right or wrong, H >= the mean or below it.

    EAPO's diagnosis of where credit is: H is the entropy before the step, in nats, its mean that of
    the group's tokens, right a verdict above 0. What is left out stays in the denominator. Where
    `keep` is null it observes alone.

    Source: EAPO, later HAPO (hindsight), arXiv 2604.11056, appendix B
    Status: paper
    """

    needs = frozenset({OLD})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "entropy/phr_share": Metric("share", "Tokens of right samples with high entropy."),
        "entropy/plr_share": Metric("share", "Tokens of right samples with low entropy."),
        "entropy/nhr_share": Metric("share", "Tokens of wrong samples with high entropy."),
        "entropy/nlr_share": Metric("share", "Tokens of wrong samples with low entropy."),
    }

    keep: Quadrant | None = None
    """The quadrant that is learned from; null is all of them."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Silence the others."""
        return credit if self.keep is None else credit.scaled(_quadrants(step)[self.keep].double())

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How large each is."""
        found = _quadrants(step).items()
        return {f"entropy/{name.lower()}_share": float(step.stats.mean(q)) for name, q in found}


def _quadrants(step: Step) -> dict[Quadrant, Tensor]:
    groups, entropies = step.by(Grouping.by_group), step[OLD].entropies
    mean = groups.of_tokens(groups.mean(entropies))
    is_high = without_rounding(entropies - mean, entropies) >= 0
    is_right = step.of_samples(step.rollouts.is_right) > 0
    is_wrong, is_low = step.mask & ~is_right, step.mask & ~is_high
    return {
        "PHR": is_right & is_high,
        "PLR": is_right & is_low,
        "NHR": is_wrong & is_high,
        "NLR": is_wrong & is_low,
    }
