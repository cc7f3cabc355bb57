"""MatchTIR: a sample against its group, and its turns against theirs."""

from __future__ import annotations

from torch import Tensor

from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.needs import TURN_REWARDS, TURNS
from megatron_stare.algorithms.turns import Turns, of_samples, same, standardised
from megatron_stare.system.values import Share


class MatchTir(TurnAdvantages):
    """A = (T + D) / 2, T of all that a sample has earned, D of R_t among the same turns of a group.

    R_t = r_t + gamma R_{t+1}; both are standardised with the unbiased std. A turn is rewarded for
    how well its calls match those of a reference. A turn that no other sample of the group has come
    to has D = 0; the code keeps its R_t.

    Source: MatchTIR, arXiv 2601.10712
    Status: checked against authors' code
    """

    needs = frozenset({TURNS, TURN_REWARDS})

    gamma: Share = 0.9
    """How much of a later turn's reward is an earlier one's."""

    def of_turns(self, turns: Turns) -> Tensor:
        """The mean of both."""
        peers = same(turns.groups, turns.numbers)
        of_turns = standardised(peers, turns.returns(self.gamma))
        return (of_samples(turns, standardised) + of_turns) / 2
