"""TRLOO: leave-one-out, turn by turn."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.turns import Turns, same
from megatron_stare.system.values import Share


class Trloo(TurnAdvantages):
    """A = R_t minus the mean of the group's others at the same turn, R_t = r_t + gamma R_{t+1}.

    Turns of which nothing is learned are left out, and have no advantage. A turn that no other
    sample of the group has come to keeps its R_t, as in the code.

    Source: Dr. Kernel, arXiv 2602.05885
    Status: checked against authors' code
    """

    gamma: Share = 1.0
    """How much of a later turn's reward is an earlier one's."""

    def of_turns(self, turns: Turns) -> Tensor:
        """Of what they have earned."""
        return self.of_rewards(turns, turns.rewards)

    def of_rewards(self, turns: Turns, rewards: Tensor) -> Tensor:
        """N / (N - 1) of the deviation from the mean, of rewards of turns, `[N]`."""
        counted, returns = turns.num_counted > 0, turns.returns(self.gamma, rewards)
        peers = same(turns.groups[counted], turns.numbers[counted])
        values = returns[counted]
        others = peers.centred(values) * peers.size / (peers.size - 1).clamp(min=1)
        advantages = torch.zeros_like(returns)
        advantages[counted] = torch.where(peers.is_single, values, others)
        return advantages
