"""Advantages of samples against their groups: the first link of a chain."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.hooks import Credit, Link, Step
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


class GroupBaseline(SampleAdvantages):
    """Its samples' advantages, each against its group."""

    kind: ClassVar[str]

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """By the group's mean, and perhaps its spread or size."""
        return group_advantages(batch.rewards, batch.group_ids, self.kind)


class Grpo(GroupBaseline):
    """A = (r - mean) / (std + 1e-6) of the group's rewards, with the unbiased std.

    A group of one keeps its reward; a reward that is its group's mean has advantage 0 exactly.

    Source: DeepSeekMath, arXiv 2402.03300, section 4.1.2
    Status: checked against authors' code
    """

    kind = "grpo"


class DrGrpo(GroupBaseline):
    """A = r - mean of the group's rewards: easy and hard prompts weigh no more than others.

    Source: Understanding R1-Zero-Like Training, arXiv 2503.20783
    Status: checked against authors' code
    """

    kind = "dr_grpo"


class Rloo(GroupBaseline):
    """A = r minus the mean reward of the group's others, G / (G - 1) (r - mean).

    Source: Back to Basics, arXiv 2402.14740
    Status: checked against authors' code
    """

    kind = "rloo"
