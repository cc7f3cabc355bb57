"""A bonus for entropy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Term
from megatron_stare.values import PositiveWeight


class Entropy(Term[None]):
    """-coef * H, the entropy of the policy where each token was sampled, through the whole softmax.

    The regulariser of A3C (arXiv 1602.01783), and of most PPO since.
    """

    differentiates_entropy = True

    coef: PositiveWeight = 0.001
    """Weight of the bonus: the loss is less by this times the mean entropy, in nats."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The bonus of each token, as a loss."""
        return -self.coef * live.entropies, ()
