"""Silence for unlikely tokens of good samples at which the policy did not hesitate."""

from __future__ import annotations

from pydantic import Field

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share


class Stapo(Link[None]):
    """Leaves out the tokens of A > 0, probability < `probability` and entropy < a quantile.

    Denominators count the others. Of whom the quantile is taken is the batch here, which the paper
    leaves open; the policy is that before the step.

    Source: STAPO, arXiv 2602.15620
    Status: paper
    """

    needs = frozenset({OLD})

    probability: float = Field(default=0.002, ge=0, le=1)
    """Of the sampled token; what is as likely is kept."""
    quantile: Share = 0.8
    """Of the batch's entropies: what is as high as it is kept."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave them out."""
        scores = step[OLD]
        entropies = scores.entropies.nan_to_num().float()  # As they are ranked.
        bound = step.stats.quantile(entropies, self.quantile, credit.counted)
        is_unlikely = scores.logprobs.exp() < self.probability
        is_spurious = (credit.advantages > 0) & is_unlikely & (entropies < bound)
        return credit._replace(counted=credit.counted & ~is_spurious)
