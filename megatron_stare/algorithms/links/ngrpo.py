"""NGRPO: groups learn against a virtual sample that is right."""

from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.advantages import GRPO_EPS, Groups, without_rounding
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import BatchCount
from megatron_stare.types import RolloutBatch


class Ngrpo(SampleAdvantages):
    """A = (r - mean') / (std' + 1e-6), of the group and virtual samples with the best reward.

    A group that is all wrong is pushed down as a whole; one that is all right learns nothing. std'
    is unbiased. A group of one gets no virtual sample and keeps its reward, as in the authors'
    code, which drops only groups that are all right.

    Source: NGRPO, arXiv 2509.18851
    Status: checked against authors' code
    """

    virtual: BatchCount = 1
    """Virtual samples of a group."""
    best: float = Field(default=1.0, ge=-1_000_000, le=1_000_000)
    """Their reward: the best that a sample can have."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Against the group with its virtual samples."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        size = groups.size + self.virtual
        mean = (groups.sum(rewards) + self.virtual * self.best) / size
        deviation = without_rounding(rewards - mean, rewards)
        squares = groups.sum(deviation.square()) + self.virtual * (self.best - mean).square()
        advantages = deviation / ((squares / (size - 1)).sqrt() + GRPO_EPS)
        return advantages.where(~groups.is_single, rewards)
