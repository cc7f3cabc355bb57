"""Bad samples dropped that the policy has moved away from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Metric, Step
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.algorithms.per_sample import sample_mean
from megatron_stare.system.values import Weight


class OffPolicyMask(Link[None]):
    """weight * 0 on a sample of A < 0 whose mean log(engine / policy) exceeds delta, in nats.

    The policy is that which starts the step: with several updates a step the paper's moves on
    between them. What is dropped stays in the denominator. The paper names no delta.

    Source: DeepSeek-V3.2, arXiv 2512.02556, off-policy sequence masking
    Status: paper
    """

    scope = "sample"
    needs = frozenset({OLD, ROLLOUT})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "mismatch/masked_share": Metric(
            "share", "Tokens of bad samples that are dropped as the policy has moved away."
        ),
    }

    delta: Weight
    """How far from the policy a bad sample may be, in nats a token: not known of the paper."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Drop samples."""
        return credit.scaled(0.0, self._of(credit, step))

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How many tokens are dropped."""
        share = step.stats.mean(self._of(credit, step), credit.counted)
        return {"mismatch/masked_share": float(share)}

    def _of(self, credit: Credit, step: Step) -> Tensor:
        distance = step[ROLLOUT] - step[OLD].logprobs
        mean = sample_mean(distance, step.sample_ids, credit.counted)
        return (credit.advantages < 0) & (mean > self.delta)
