"""A whole sample dropped for one token that the policy would hardly have sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Metric, Step
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.algorithms.per_sample import sample_sum
from megatron_stare.system.values import Share


class Veto(Link[None]):
    """weight * 0 on a sample that has a token with policy / engine < threshold.

    What is dropped stays in the denominator; the code takes it out of the response mask.

    Source: verl's rollout correction, as of version 0.7
    Status: checked against authors' code
    """

    scope = "sample"
    needs = frozenset({OLD, ROLLOUT})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mismatch/vetoed_share": Metric(
            "share", "Tokens of samples that are dropped as one of theirs is next to impossible."
        ),
    }

    threshold: Share = 1e-4
    """The smallest ratio that a sample's tokens may have."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Drop samples."""
        return credit.scaled(0.0, self._of(credit, step))

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How many tokens are dropped."""
        share = step.stats.mean(self._of(credit, step), credit.counted)
        return {"mismatch/vetoed_share": float(share)}

    def _of(self, credit: Credit, step: Step) -> Tensor:
        log_ratios = step[OLD].logprobs - step[ROLLOUT]
        is_out = (log_ratios < math.log(self.threshold)) & credit.counted
        return sample_sum(is_out, step.sample_ids) > 0
