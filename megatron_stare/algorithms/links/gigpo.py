"""GiGPO: groups in groups, of turns that were written in the same state."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.turns import Turns, of_samples, same, standardised
from megatron_stare.system.values import Share, Weight

Norm = Literal["mean", "mean_std"]
"""What is done to values of a group: their mean taken off, or divided by their std, too."""


class Gigpo(TurnAdvantages):
    """A = E + omega S, S of R_t = r_t + gamma R_{t+1} against turns of its group in the same state.

    E is of what the turn's sample has earned in all, against its group: the mean and unbiased std
    of all turns, so that a sample counts as often as it has turns, or of samples. A turn whose
    state no other has been in has S = 0. Of a lone sample of one turn the code keeps the reward,
    here E is 0. States are equal or not: the code's similar ones are for who gives anchors.

    Source: GiGPO, arXiv 2505.10978
    Status: checked against authors' code
    """

    omega: Weight = 1.0
    """How much the states' groups weigh."""
    gamma: Share = 0.95
    """How much of a later turn's reward is an earlier one's."""
    norm: Norm = "mean"
    """Of both groups: mean_norm or mean_std_norm of the code, whose default is the first."""
    over: Literal["turns", "samples"] = "turns"
    """What E's mean and std are of."""

    def of_turns(self, turns: Turns) -> Tensor:
        """The sum of both."""
        groups = same(turns.groups, turns.anchors)
        of_states = normalised(groups, turns.returns(self.gamma), self.norm)
        return of_episodes(turns, self.norm, self.over) + self.omega * of_states


def of_episodes(turns: Turns, norm: Norm, over: Literal["turns", "samples"]) -> Tensor:
    """E of each turn, float64 `[N]`."""
    if over == "samples":
        return of_samples(turns, lambda groups, totals: normalised(groups, totals, norm))
    return normalised(Groups(turns.groups), turns.totals, norm)


def normalised(groups: Groups, values: Tensor, norm: Norm) -> Tensor:
    """Values `[N]` against their groups."""
    return groups.centred(values) if norm == "mean" else standardised(groups, values)
