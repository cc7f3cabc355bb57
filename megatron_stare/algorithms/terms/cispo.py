"""REINFORCE under a clipped importance weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class Cispo(Clipped):
    """weight * -A logprob clip(r, 1 - low, 1 + high); the ratio r carries no gradient.

    No token ever loses its gradient. The defaults are those of verl, where nothing bounds r below;
    the paper names none.

    Source: MiniMax-M1, arXiv 2506.13585
    Status: checked against authors' code
    """

    low: Weight = 10.0
    """The ratio is clipped below at 1 - low: from 1 on, not at all."""
    high: Weight = 0.2
    """The ratio is clipped above at 1 + high."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which ratios are bounded, whatever the advantage."""
        credit = live.credit
        ratio = importance_ratios(live.logprobs.detach() - live.old_logprobs)
        bounds = 1 - credit.clip_low, 1 + credit.clip_high
        weights = credit.weights * ratio.clamp(*bounds)
        return -weights * credit.advantages * live.logprobs, (ratio < bounds[0], ratio > bounds[1])
