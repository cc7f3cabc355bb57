"""GPG: the plain policy gradient, scaled up for groups that say nothing."""

from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.types import RolloutBatch

VALID_STD = 1e-5
"""A group whose unbiased std is above it is valid; the authors add it to their divisor, too."""


class Gpg(SampleAdvantages):
    """A = (r - mean) / (s + 1e-5), s the share of the batch's groups whose rewards differ.

    A group of one has advantage 0. verl's `gpg` scales otherwise: by the samples over those with
    a reward. The authors keep sampling until s is 0.5 to 0.6: here dynamic sampling.

    Source: GPG, arXiv 2504.02546
    Status: checked against authors' code
    """

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Deviations from the group's mean, as if all groups were valid."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        share = groups.mean_of_groups((groups.std(rewards) > VALID_STD).double())
        return groups.centred(rewards) / (share + VALID_STD)
