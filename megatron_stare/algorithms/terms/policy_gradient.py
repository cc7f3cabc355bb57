"""The plain policy gradient, without ratio and clip."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Term


class PolicyGradient(Term[None]):
    """-weight * A * logprob: no ratio to the policy that starts the step, and no clip.

    Source: Williams, REINFORCE, 1992; as in GPG, arXiv 2504.02546
    Status: paper
    """

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token."""
        return -live.credit.weights * live.credit.advantages * live.logprobs, ()
