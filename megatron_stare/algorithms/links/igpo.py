"""IGPO: turns are paid for how much likelier they have made the answer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.needs import TURN_REWARDS, TURNS
from megatron_stare.algorithms.turns import Turns, same, standardised
from megatron_stare.system.values import Share


class Igpo(TurnAdvantages):
    """A = z_t + gamma A_{t+1}, z of a turn's information gain, and of a last one's outcome.

    The gain of a turn is its own reward: s_t - s_{t-1}, or e^s_t - e^s_{t-1}, s_t the mean log-prob
    of the answer's tokens behind it. Gains and outcomes are standardised apart in the group (the
    paper), or together (its first version), with the unbiased std. The code takes sums of gains
    less the group's mean at the same token's place, with which tokens before a tool's output get
    nothing from behind it.

    Source: IGPO, arXiv 2510.14967
    Status: paper
    """

    needs = frozenset({TURNS, TURN_REWARDS})

    gamma: Share = 1.0
    """How much of what a later turn has gained is an earlier one's."""
    scale: Literal["apart", "together"] = "apart"
    """Whether gains and outcomes are standardised each among themselves."""

    def of_turns(self, turns: Turns) -> Tensor:
        """Sums of what is standardised."""
        groups = Groups(turns.groups)
        if self.scale == "apart":
            groups = same(turns.groups, turns.are_last)
        return turns.returns(self.gamma, standardised(groups, turns.rewards))
