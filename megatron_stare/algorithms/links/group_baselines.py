"""Advantages of samples against their groups: the first link of a chain."""

from __future__ import annotations

from torch import Tensor

from megatron_stare.algorithms.advantages import GRPO_EPS, group_advantages
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.system.values import PositiveWeight
from megatron_stare.types import RolloutBatch


class SampleAdvantages(Link[None]):
    """Makes advantages of samples from what every rank knows of the whole batch, as of rewards."""

    makes_advantages = True
    scope = "sample"

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """The advantage of each sample, float `[B]`."""
        raise NotImplementedError

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its sample's advantage."""
        return credit.with_advantages(step.of_samples(self.of_samples(step.rollouts)))


class Grpo(SampleAdvantages):
    """A = (r - mean) / (std + eps) of the group's rewards, with the unbiased std.

    A group of one keeps its reward; a reward that is its group's mean has advantage 0 exactly.

    Source: DeepSeekMath, arXiv 2402.03300, section 4.1.2
    Status: checked against authors' code
    """

    eps: PositiveWeight = GRPO_EPS
    """What is added to the std: verl's; TRL's is 1e-4."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By the group's mean and spread."""
        return group_advantages(batch.rewards, batch.group_ids, eps=self.eps)


class DrGrpo(SampleAdvantages):
    """A = r - mean of the group's rewards: easy and hard prompts weigh no more than others.

    Source: Understanding R1-Zero-Like Training, arXiv 2503.20783
    Status: checked against authors' code
    """

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By the group's mean."""
        return group_advantages(batch.rewards, batch.group_ids, "dr_grpo")


class Rloo(SampleAdvantages):
    """A = r minus the mean reward of the group's others, G / (G - 1) (r - mean).

    Source: Back to Basics, arXiv 2402.14740
    Status: checked against authors' code
    """

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By the group's mean and size."""
        return group_advantages(batch.rewards, batch.group_ids, "rloo")
