"""HGPO: groups of turns that have come the same way."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.links.gigpo import Norm, of_episodes
from megatron_stare.algorithms.links.turn_advantages import TurnAdvantages
from megatron_stare.algorithms.turns import Turns, same, standardised
from megatron_stare.system.values import CountOrZero, Share, Weight


class Hgpo(TurnAdvantages):
    """A = sum w_k a_k / sum w_k, a_k of R_t against turns whose last k states are the same.

    k is 1 to history + 1, w_k = (k + 1)^alpha, R_t = r_t + gamma R_{t+1}; both sums are over those
    a_k that are not 0, and a turn of fewer than k has no a_k. The std is the population's. With
    `episode`, a_0 is of what samples have earned in all, as GiGPO's E.

    Source: HGPO, arXiv 2602.22817
    Status: checked against authors' code
    """

    history: CountOrZero = 2
    """K: states before a turn that are compared, too."""
    alpha: Weight = 1.0
    """How much more the longer histories weigh."""
    gamma: Share = 0.95
    """How much of a later turn's reward is an earlier one's."""
    norm: Norm = "mean_std"
    """Whether deviations are divided by their std."""
    episode: bool = False
    """base_group of the code."""

    def of_turns(self, turns: Turns) -> Tensor:
        """The weighted mean over histories."""
        returns = turns.returns(self.gamma)
        alike = turns.groups
        items = [of_episodes(turns, self.norm, "turns")] if self.episode else []
        longest = min(self.history, int(turns.numbers.max()))
        for k in range(longest + 1):
            # A turn's last k + 1 states: those of the turn before it, and its own.
            before = alike if k == 0 else torch.cat([alike[:1], alike[:-1]])
            rows = torch.stack([before, turns.anchors], dim=1)
            alike = rows.unique(dim=0, return_inverse=True)[1]
            groups = same(alike, torch.where(turns.numbers >= k, -1, turns.samples))
            centred = groups.centred(returns)
            spread = standardised(groups, returns, unbiased=False)
            value = centred if self.norm == "mean" else spread
            items.append(value.masked_fill(turns.numbers < k, 0.0))
        found = torch.stack(items)
        sizes = torch.arange(len(items)).double() + (1 if self.episode else 2)
        weights = (sizes / sizes[-1]).pow(self.alpha)[:, None] * (found != 0)
        return (weights * found).sum(0) / weights.sum(0).clamp(min=1e-300)
