"""OPO: the baseline of least variance."""

from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, without_rounding
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.types import RolloutBatch


class Opo(SampleAdvantages):
    """A = r - sum(l r) / sum(l) of the group, l the length of a sample: the optimal baseline.

    l is in tokens that the policy chose. A group of one keeps its reward, as in verl. The paper
    takes one update a step, where no ratio is clipped.

    Source: On-Policy RL with Optimal Reward Baseline, arXiv 2505.23585
    Status: checked against authors' code
    """

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Long samples count for more in the baseline."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        lengths = batch.num_loss_tokens.double()
        baseline = groups.sum(lengths * rewards) / groups.sum(lengths).clamp(min=1)
        return without_rounding(rewards - baseline.masked_fill(groups.is_single, 0.0), rewards)
