"""A whole sample dropped for one token that the policy would hardly have sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Metric, Step
from megatron_stare.algorithms.links.dropped import DropsSamples
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.algorithms.per_sample import sample_sum
from megatron_stare.system.values import Share


class Veto(DropsSamples):
    """weight * 0 on a sample that has a token with policy / engine < threshold.

    What is dropped stays in the denominator; the code takes it out of the response mask.

    Source: verl's rollout correction, as of version 0.7
    Status: checked against authors' code
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "mismatch/vetoed_share": Metric(
            "share", "Tokens of samples that are dropped as one of theirs is next to impossible."
        ),
    }

    threshold: Share = 1e-4
    """The smallest ratio that a sample's tokens may have."""

    def dropped(self, credit: Credit, step: Step) -> Tensor:
        """All tokens of such a sample."""
        log_ratios = step[OLD].logprobs - step[ROLLOUT]
        is_out = (log_ratios < math.log(self.threshold)) & credit.counted
        return sample_sum(is_out, step.sample_ids) > 0
