"""The clipped surrogate whose ratio is flipped where the advantage is positive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import clipped_sides, importance_ratios
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class Aspo(Clipped):
    """weight * -A / r for A > 0, gradient 0 if r > 1 + high; -A max(r, 1 - low) for A < 0.

    r is the ratio to the policy before the step; 1 / r has the gradient (1 / r) grad logprob, so
    that unlikely tokens of good samples are learned most. Where 1 / r, or r for A < 0, exceeds
    `dual`, the loss is -A dual logprob. The code's penalty on low-entropy tokens is the term `kl`,
    which is not restricted to them.

    Source: ASPO (Archer2), arXiv 2510.06062
    Status: checked against authors' code
    """

    shares = ("loss/clip_low_share", "loss/clip_high_share", "loss/dual_clip_share")

    low: float = Field(default=0.2, ge=0, le=1)
    """Where A < 0, the ratio is clipped below at 1 - low."""
    high: Weight = 0.2
    """Where A > 0, the ratio is clipped above at 1 + high."""
    dual: float = Field(default=3.0, gt=1, le=1_000_000)
    """Largest factor of A in the gradient."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        credit, d = live.credit, live.logprobs - live.old_logprobs
        rest = (credit.advantages, credit.clip_low, credit.clip_high)
        ratio = importance_ratios(d)
        low, high = clipped_sides(ratio.detach(), *rest)
        floored = torch.where(low, 1 - credit.clip_low, ratio)
        flipped = (d - d.detach()).exp() / ratio.detach()
        flipped = torch.where(high, 1 / (1 + credit.clip_high), flipped)
        factor = torch.where(credit.advantages > 0, flipped, floored)
        dual = factor.detach() > self.dual
        factor = torch.where(dual, self.dual * live.logprobs, factor)
        return -credit.weights * credit.advantages * factor, (low, high, dual)
