"""DAPO's soft punishment of long responses."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.filters import overlong_penalty
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import Count, Weight
from megatron_stare.types import RolloutBatch


class Overlong(SampleAdvantages):
    """A of r - factor min(1, max(0, l - max_length + buffer) / buffer), l the sample's tokens.

    The same penalty is a part of the reward with reward.overlong_buffer_tokens, where it is logged
    with it, and l is all of a response. The code has no floor, as no response exceeds max_length.

    Source: DAPO, arXiv 2503.14476, equation 13
    Status: checked against authors' code
    """

    max_length: Count = 20_480
    """Tokens of the longest response."""
    buffer: Count = 4_096
    """Tokens before it over which the penalty grows."""
    factor: Weight = 1.0
    """The largest penalty."""
    baseline: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """What makes advantages of the rewards."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By reward and length."""
        lengths = batch.num_loss_tokens
        penalty = overlong_penalty(lengths, self.max_length, self.buffer, self.factor)
        return group_advantages(batch.rewards + penalty, batch.group_ids, self.baseline)
