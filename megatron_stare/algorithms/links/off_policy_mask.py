"""Bad samples dropped that the policy has moved away from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Metric, Step
from megatron_stare.algorithms.links.dropped import DropsSamples
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.algorithms.per_sample import sample_mean
from megatron_stare.system.values import Weight


class OffPolicyMask(DropsSamples):
    """weight * 0 on a sample of A < 0 whose mean log(engine / policy) exceeds delta, in nats.

    The policy is that which starts the step: with several updates a step the paper's moves on
    between them. What is dropped stays in the denominator. The paper names no delta.

    Source: DeepSeek-V3.2, arXiv 2512.02556, off-policy sequence masking
    Status: paper
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "mismatch/masked_share": Metric(
            "share", "Tokens of bad samples that are dropped as the policy has moved away."
        ),
    }

    delta: Weight
    """How far from the policy a bad sample may be, in nats a token: not known of the paper."""

    def dropped(self, credit: Credit, step: Step) -> Tensor:
        """All tokens of such a sample."""
        distance = step[ROLLOUT] - step[OLD].logprobs
        mean = sample_mean(distance, step.sample_ids, credit.counted)
        return (credit.advantages < 0) & (mean > self.delta)
