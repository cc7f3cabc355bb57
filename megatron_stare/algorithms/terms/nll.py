"""Negative log-likelihood: what supervised fine-tuning minimises."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Term
from megatron_stare.system.values import PositiveWeight


class Nll(Term[None]):
    """-coef * logprob, whatever the advantage: what supervised fine-tuning minimises.

    Source: maximum likelihood
    Status: derived
    """

    coef: PositiveWeight = 1.0
    """Weight of the term."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """In nats."""
        return -self.coef * live.logprobs, ()
