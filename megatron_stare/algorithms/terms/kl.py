"""A penalty on leaving the policy that a run starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step, Term
from megatron_stare.algorithms.losses import kl_penalty
from megatron_stare.algorithms.needs import REFERENCE
from megatron_stare.system.values import PositiveWeight


class Kl(Term[Tensor]):
    """coef * k3(d), d = reference - logprob, an estimate of KL(policy || reference).

    k1 = -d, k2 = d^2 / 2, k3 = e^d - d - 1, at most 10. The reference is the policy that the run
    has started from.

    Source: Schulman, Approximating KL Divergence, 2020
    Status: paper
    """

    needs = frozenset({REFERENCE})
    shares = ("loss/kl_reference",)

    coef: PositiveWeight = 0.001
    """Weight of the penalty."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Which estimate."""

    def prepare(self, step: Step) -> Tensor:
        """The reference's log-probs."""
        return step[REFERENCE].logprobs

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The penalty of each token."""
        kl = kl_penalty(live.logprobs, fields, self.estimator)
        return self.coef * kl, (kl.detach(),)
