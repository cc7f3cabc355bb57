"""MAPO: what a turn has led to, and what it has earned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.needs import TURN_REWARDS, TURNS
from megatron_stare.algorithms.turns import Turns, same, standardised
from megatron_stare.system.values import Share, Weight


class Mapo(TurnAdvantages):
    """A = alpha z(R_t) + beta z(r_t), of the same turn of a group, and of all of its turns.

    R_t = r_t + gamma R_{t+1}, with the population's std. r_t is a judge's, or how much nearer the
    turn has come to the goal. What gamma is, and whether beta's z is of the group or of the batch,
    the sources do not agree on.

    Source: MAPO (MICA), arXiv 2603.06194
    Status: derived
    """

    needs = frozenset({TURNS, TURN_REWARDS})

    alpha: Weight = 0.5
    """How much of what a turn has led to."""
    beta: Weight = 0.5
    """How much of what it has earned itself."""
    gamma: Share = 1.0
    """How much of a later turn's reward is an earlier one's."""
    among: Literal["group", "batch"] = "group"
    """What rewards of turns are standardised in."""

    def of_turns(self, turns: Turns) -> Tensor:
        """The weighted sum."""
        peers = same(turns.groups, turns.numbers)
        all_turns = turns.groups if self.among == "group" else torch.zeros_like(turns.groups)
        led_to = standardised(peers, turns.returns(self.gamma), unbiased=False)
        earned = standardised(Groups(all_turns), turns.rewards, unbiased=False)
        return self.alpha * led_to + self.beta * earned
