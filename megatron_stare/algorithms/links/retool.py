"""ReTool's recipe: wrong answers lose less where tools were tried."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.algorithms.needs import TURNS
from megatron_stare.algorithms.turns import Turns
from megatron_stare.system.values import Weight
from megatron_stare.types import RolloutBatch


class Retool(SampleAdvantages):
    """A = GRPO's of min(most, r + each (n - 1)) where r < 0, n the sample's turns, else of r.

    A wrong answer has r = -1 there; trying tools cannot make it a right one. verl's recipe counts
    turns; slime's counts calls, at half the price, from -1.1.

    Source: verl's ReTool recipe, arXiv 2504.11536
    Status: checked against authors' code
    """

    needs = frozenset({TURNS})

    each: Weight = 0.1
    """What every turn after the first gives back."""
    most: float = Field(default=-0.6, ge=-1e6, le=0)
    """The largest reward of a wrong answer."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Of the shaped rewards."""
        turns = Turns(batch)
        numbers = turns.numbers.to(batch.rewards.dtype)
        again = torch.zeros_like(batch.rewards).index_reduce_(0, turns.samples, numbers, "amax")
        shaped = (batch.rewards + self.each * again).clamp(max=self.most)
        rewards = torch.where(batch.rewards < 0, shaped, batch.rewards)
        return group_advantages(rewards, batch.group_ids)
