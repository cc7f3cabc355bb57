"""A-GRAE: advantages by how hard a prompt is, and how far the policy."""

from torch import Tensor

from megatron_stare.algorithms.advantages import GRPO_EPS, Groups
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import PositiveWeight
from megatron_stare.types import RolloutBatch


class AGrae(SampleAdvantages):
    """A = A0 / 2 ((1 - P) / (1 - sqrt(m) + e) + P / (sqrt(m) + e)), times min(1, P / alpha) if > 0.

    A0 is GRPO's, m the group's mean reward, in [0, 1], P the mean of m over groups, e = 1e-6: while
    P is low, easy prompts weigh more, later hard ones. The code has 1 - sqrt(m), not sqrt(1 - m).
    A group of one has advantage 0; the code divides its reward by e, and takes its m as 0 in P.

    Source: A-GRAE, arXiv 2602.05548
    Status: checked against authors' code
    """

    alpha: PositiveWeight = 1.0
    """P from which right samples count in full: 1 for mathematics, 0.5 for geometry, medicine."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By the group's mean, and the batch's."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        mean = groups.mean(rewards).clamp(0, 1)
        progress = groups.mean_of_groups(mean)
        easy, hard = 1 - mean.sqrt() + GRPO_EPS, mean.sqrt() + GRPO_EPS
        grpo = groups.centred(rewards) / (groups.std(rewards) + GRPO_EPS)
        advantages = grpo / 2 * ((1 - progress) / easy + progress / hard)
        return advantages.where(advantages <= 0, advantages * (progress / self.alpha).clamp(max=1))
