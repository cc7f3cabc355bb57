"""Importance weights whose mean is 1."""

from __future__ import annotations

from megatron_stare.algorithms.hooks import Credit, Link, Step


class SelfNormalized(Link[None]):
    """weight / mean of the batch's weights: self-normalised importance sampling.

    It stands behind the correction whose weights it is to divide, and before others that weigh.

    Source: verl's rollout correction, as of version 0.7 (batch normalisation)
    Status: checked against authors' code
    """

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Divide; weights that are all 0 stay."""
        mean = step.stats.mean(credit.weights, credit.counted).nan_to_num(nan=1.0)
        return credit.scaled(1 / mean.clamp(min=1e-30))
