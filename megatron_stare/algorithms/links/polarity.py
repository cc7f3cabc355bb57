"""PSR, NSR and W-REINFORCE: rewards without a baseline, by their polarity."""

import torch
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import PositiveWeight
from megatron_stare.types import RolloutBatch


class WReinforce(SampleAdvantages):
    """A = coef for right samples, -1 for wrong ones: positive samples weigh less.

    A sample is right where its verdict is above 0.

    Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
    Status: checked against authors' code
    """

    coef: PositiveWeight = 0.1
    """lambda of the paper: the advantage of right samples."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By the sign of the reward alone."""
        return torch.where(batch.is_right, self.coef, -1.0)


class Psr(SampleAdvantages):
    """A = 1 for right samples, and wrong ones do not count: positive samples alone.

    A sample is right where its verdict is above 0. The authors' code drops the others from the
    batch, and as many as do not fill its ranks; here the others leave the loss's mean.

    Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
    Status: checked against authors' code
    """

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """1 or 0."""
        return (batch.is_right).double()

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Count what has an advantage."""
        credit = super().apply(credit, step, state)
        return credit._replace(counted=credit.counted & (credit.advantages != 0))


class Nsr(Psr):
    """A = -1 for wrong samples, and right ones do not count: negative samples alone.

    A sample is right where its verdict is above 0. The authors' code drops the others from the
    batch, and where tokens are masked also punishes right samples before the gap; here neither.

    Source: The Surprising Effectiveness of Negative Reinforcement, arXiv 2506.01347
    Status: checked against authors' code
    """

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """0 or -1."""
        return super().of_samples(batch) - 1
