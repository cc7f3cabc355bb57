"""SeeUPO's advantages: a turn's outcome against all that has come as far."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, group_advantages
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.turns import Turns
from megatron_stare.system.values import PositiveWeight

FLAT = 1e-6
"""A std that divides nothing."""


class SeeUpo(TurnAdvantages):
    """A = z of r - mean of the group, among the batch's turns of the same number, within +-bound.

    Mean and unbiased std are of all samples that have come to this turn; where the std is not above
    1e-6, r - mean stays as it is. A group of one keeps its reward. `turn_by_turn` multiplies A.

    Source: SeeUPO, arXiv 2602.06554
    Status: checked against authors' code
    """

    bound: PositiveWeight = 3.0
    """The largest advantage, either way."""

    def of_turns(self, turns: Turns) -> Tensor:
        """The same of all turns of a number."""
        batch = turns.batch
        against_group = group_advantages(batch.rewards.double(), batch.group_ids, "dr_grpo")
        values, peers = against_group[turns.samples], Groups(turns.numbers)
        std = peers.std(values)
        spread = peers.centred(values) / std.clamp(min=FLAT)
        return torch.where(std > FLAT, spread, values).clamp(-self.bound, self.bound)
