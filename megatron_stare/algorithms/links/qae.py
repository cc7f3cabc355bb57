"""QAE: a quantile of the group's rewards as baseline."""

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import GRPO_EPS, Groups, without_rounding
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.ops.selection import share_of
from megatron_stare.system.values import Share
from megatron_stare.types import RolloutBatch


class Qae(SampleAdvantages):
    """A = (r - b) / (std + 1e-6), b the smallest reward at or below which K of the group stand.

    With rewards of 0 and 1, right samples alone are learned from where at most 1 - K are right,
    and wrong ones alone elsewhere. std is unbiased; a group of one has advantage 0.

    Source: Quantile Advantage Estimation, arXiv 2509.22611
    Status: paper
    """

    quantile: Share = 0.4
    """K; the paper takes 0.6 where entropy starts too low."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Against the ceil(K G)-th smallest reward."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        needed = torch.tensor([share_of(self.quantile, size) for size in groups.size.tolist()])
        needed = needed.clamp(min=1)
        is_baseline = groups.ranks(rewards) == needed - 1
        baseline = groups.sum(rewards.where(is_baseline, 0.0))
        return without_rounding(rewards - baseline, rewards) / (groups.std(rewards) + GRPO_EPS)
