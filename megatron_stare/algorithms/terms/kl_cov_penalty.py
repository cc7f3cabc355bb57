"""A penalty on moving the few tokens whose likelihood and advantage go together most."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step, Term
from megatron_stare.algorithms.links.kl_cov import KL_COV
from megatron_stare.system.values import PositiveWeight


class KlCovPenalty(Term[Tensor]):
    """coef * |logprob - old| on the tokens that `kl_cov` marks.

    In nats; 0, with no gradient, under the policy that starts a step: it acts from the second
    update of a step on.

    Source: The Entropy Mechanism, arXiv 2505.22617
    Status: checked against authors' code
    """

    needs = frozenset({KL_COV})

    coef: PositiveWeight = 1.0
    """Weight of the penalty."""

    def prepare(self, step: Step) -> Tensor:
        """The marks."""
        return step[KL_COV]

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The penalty of each token."""
        return self.coef * fields * (live.logprobs - live.old_logprobs).abs(), ()
