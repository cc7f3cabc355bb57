"""A bonus for entropy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Term
from megatron_stare.system.values import PositiveWeight


class Entropy(Term[None]):
    """-coef * H, the entropy of the policy where each token was sampled.

    With its gradient through the whole softmax; docs/stare.md compares it with STARE.

    Source: A3C, arXiv 1602.01783
    Status: paper
    """

    differentiates_entropy = True

    coef: PositiveWeight = 0.001
    """Weight of the bonus: the loss is less by this times the mean entropy, in nats."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The bonus of each token, as a loss."""
        return -self.coef * live.entropies, ()
