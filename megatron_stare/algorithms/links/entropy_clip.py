"""Wider clip ranges where the policy hesitated."""

from __future__ import annotations

import torch
from pydantic import Field

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share


class EntropyClip(Link[None]):
    """Clip ranges of `high` on both sides for tokens above a quantile of their sample's entropies.

    The others keep those of the policy term. Entropies are those before the step; in the authors'
    code, those of the policy that learns.

    Source: ASPO (Archer2), arXiv 2510.06062
    Status: paper
    """

    scope = "sample"
    needs = frozenset({OLD})

    quantile: Share = 0.8
    """Of the entropies of a sample."""
    high: float = Field(default=0.4, ge=0, le=1)
    """Range of what lies above it."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Widen the ranges."""
        samples, entropies = step.own_samples, step[OLD].entropies.nan_to_num().float()
        bound = samples.of_tokens(samples.quantile(entropies, self.quantile, credit.counted))
        is_high = credit.counted & (entropies > bound)
        return credit._replace(
            clip_low=torch.where(is_high, self.high, credit.clip_low),
            clip_high=torch.where(is_high, self.high, credit.clip_high),
        )
