"""HAPO's baseline: what a token of the group gets on average."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, group_advantages, without_rounding
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import PositiveWeight
from megatron_stare.types import RolloutBatch


class TokenMean(SampleAdvantages):
    """A = (r - mean) / (std + 1e-6) over the tokens of a group, each with its sample's reward.

    With the population std; 0 in a group of one. Where a sample has |A| >= `limit`, its group's A
    is GRPO's. In the authors' code padding, at which A is mean / std, may set this off, too.

    Source: HAPO (heterogeneous), arXiv 2509.16591
    Status: checked against authors' code
    """

    limit: PositiveWeight = 5.0
    """Largest |A|."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Rewards weighted by length, against their mean."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        lengths = batch.num_loss_tokens.double()
        total = groups.sum(lengths).clamp(min=1)
        centred = without_rounding(rewards - groups.sum(rewards * lengths) / total, rewards)
        std = (groups.sum(centred.square() * lengths) / total).sqrt()
        advantages = torch.where(lengths > 0, centred / (std + 1e-6), 0.0)
        is_wide = groups.max(advantages.abs()) >= self.limit
        grpo = group_advantages(rewards, batch.group_ids)
        return torch.where(is_wide, grpo, advantages).to(batch.rewards.dtype)
