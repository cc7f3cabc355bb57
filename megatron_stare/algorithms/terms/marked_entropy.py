"""A bonus for entropy with a coefficient that a link has left."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step, Term
from megatron_stare.algorithms.links.adaptive_entropy import COEFFICIENT


class MarkedEntropy(Term[Tensor]):
    """-coef * H, with the coefficient that `adaptive_entropy` has left.

    H is the entropy of the policy that learns, in nats, with its gradient.

    Source: Skywork-OR1, arXiv 2505.22312
    Status: checked against authors' code
    """

    needs = frozenset({COEFFICIENT})
    differentiates_entropy = True

    def prepare(self, step: Step) -> Tensor:
        """The coefficient of each token."""
        return step[COEFFICIENT]

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The bonus of each token, as a loss."""
        return -fields * live.entropies, ()
