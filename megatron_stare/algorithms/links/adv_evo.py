"""AdvEvo-MARL: a baseline that all players of a role share."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.needs import ROLES, TURNS
from megatron_stare.algorithms.turns import Turns


class AdvEvo(TurnAdvantages):
    """A = R - mean of R over the batch's players of the same role, R what a player's turns earned.

    A player is a role in a sample: all attackers have one baseline, all defenders another. What
    they are rewarded for, which shifts from safety to the task, is the environment's.

    Source: AdvEvo-MARL, arXiv 2510.01586
    Status: derived
    """

    needs = frozenset({TURNS, ROLES})

    def of_turns(self, turns: Turns) -> Tensor:
        """That of its player."""
        pairs = torch.stack([turns.samples, turns.roles], dim=1)
        players, of_turn = pairs.unique(dim=0, return_inverse=True)
        earned = torch.zeros(len(players)).double().index_add_(0, of_turn, turns.rewards)
        return Groups(players[:, 1]).centred(earned)[of_turn]
