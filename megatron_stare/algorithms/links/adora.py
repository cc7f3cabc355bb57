"""ADORA: a group counts in full where its right answers are the longer ones."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, group_advantages
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import Count, Weight
from megatron_stare.types import RolloutBatch


class Adora(SampleAdvantages):
    """A = GRPO's, times weight unless the longest right sample is longer than the mean wrong one.

    Wrong ones of max_length tokens and more are left out of that mean; right is a verdict above 0.
    In a group without right samples, or right ones alone, "language" compares with -infinity;
    "vision" compares with infinity where none is wrong, and keeps GRPO's where none is right.

    Source: ADORA, ShadeCloak/ADORA
    Status: checked against authors' code
    """

    weight: Weight = 0.1
    """lambda of the code: of a group whose right samples are not the longer ones."""
    max_length: Count = 4_054
    """Tokens from which a wrong sample is taken for cut off: the code's, of 4,096 at most."""
    empty: Literal["language", "vision"] = "language"
    """What decides where samples to compare are missing: the code for texts, or for images."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By reward and length."""
        groups, lengths = Groups(batch.group_ids), batch.num_loss_tokens.double()
        right = batch.is_right
        wrong = (~right & (lengths < self.max_length)).double()
        longest = groups.max(lengths.masked_fill(~right, -math.inf))
        mean = groups.sum(wrong * lengths) / groups.sum(wrong)
        none, keeps = -math.inf, torch.zeros_like(right)
        if self.empty == "vision":
            none, keeps = math.inf, longest == -math.inf
        is_whole = (longest > mean.nan_to_num(nan=none)) | keeps
        advantages = group_advantages(batch.rewards, batch.group_ids)
        return torch.where(is_whole, 1.0, self.weight) * advantages
