"""A loss of whole samples, by its value and its slope at the policy that was scored."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step, Term
from megatron_stare.algorithms.links.pairs import PAIR_LOSS


class Tangent(Term[Tensor]):
    """loss - weight * A * (logprob - old): a loss that couples samples, and its slope -A.

    Value and gradient are those of the loss that the link before has decided, under the policy
    before the step. A further update of the step sees its tangent there: it wants one update.

    Source: first-order expansion
    Status: derived
    """

    needs = frozenset({PAIR_LOSS})
    has_own_mean = True
    aggregation = "seq-mean-token-mean"

    def prepare(self, step: Step) -> Tensor:
        """The loss of each token's sample."""
        return step[PAIR_LOSS]

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token's sample, and its way down."""
        gain = live.credit.weights * live.credit.advantages
        return fields - gain * (live.logprobs - live.old_logprobs), ()
