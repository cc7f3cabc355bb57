"""MARS: what a turn has led to, against all turns of its player."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, without_rounding
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.needs import ROLES, TURNS
from megatron_stare.algorithms.turns import Turns, same
from megatron_stare.system.values import Share


class Mars(TurnAdvantages):
    """A = R_t - mean of R over the batch's turns of the same role, R_t = r_t + gamma R_{t+1}.

    Rewards are summed first, which does not favour long games, and roles have baselines of their
    own, as games are not fair. Players of different games are different roles. The code whitens
    advantages afterwards, as `reinforce_plus_plus` does.

    Source: MARS (MARSHAL), arXiv 2510.15414
    Status: checked against authors' code
    """

    needs = frozenset({TURNS, ROLES})

    gamma: Share = 1.0
    """How much of a later turn's reward is an earlier one's."""
    baseline: Literal["mean", "unique"] = "mean"
    """The paper's mean over turns, or the code's over the values that they have, each once."""

    def of_turns(self, turns: Turns) -> Tensor:
        """Against its role."""
        returns, roles = turns.returns(self.gamma), turns.roles
        if self.baseline == "mean":
            return Groups(roles).centred(returns)
        alike = same(roles, returns.unique(return_inverse=True)[1])
        once = 1 / alike.size
        of_role = Groups(roles)
        return without_rounding(returns - of_role.sum(returns * once) / of_role.sum(once), returns)
