"""Advantages of samples against their groups: the first link of a chain."""

from __future__ import annotations

from typing import ClassVar

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.hooks import Credit, Link, Step


class GroupBaseline(Link[None]):
    """Its samples' advantages, each against its group."""

    scope = "sample"
    kind: ClassVar[str]

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its sample's advantage."""
        batch = step.rollouts
        of_samples = group_advantages(batch.rewards, batch.group_ids, self.kind)
        return credit.with_advantages(step.of_samples(of_samples))


class Grpo(GroupBaseline):
    """A = (r - mean) / (std + 1e-6), unbiased std (DeepSeekMath, arXiv 2402.03300, 4.1.2).

    A group of one keeps its reward; a reward that is its group's mean has advantage 0 exactly.
    """

    kind = "grpo"


class DrGrpo(GroupBaseline):
    """A = r - mean: easy and hard prompts get no more weight than others (arXiv 2503.20783)."""

    kind = "dr_grpo"


class Rloo(GroupBaseline):
    """A = r minus the mean of the others, G / (G - 1) (r - mean) (arXiv 2402.14740)."""

    kind = "rloo"
