"""The surrogate that keeps a bounded gradient where PPO clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import clipped_sides, importance_ratios
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class CeGppo(Clipped):
    """weight * -A r, with a bounded r where PPO clips: beta1 (1 - low), beta2 (1 + high).

    There the gradient is that bound times grad logprob, and not 0: beta1 is of unlikely tokens with
    A < 0, beta2 of those with A > 0. For A < 0 the loss is at most -A dual, with no gradient above.
    The default beta1 is the paper's of 7B models (0.5 of 1.5B; 0.25 in the code).

    Source: CE-GPPO, arXiv 2509.20712
    Status: checked against authors' code
    """

    shares = ("loss/clip_low_share", "loss/clip_high_share", "loss/dual_clip_share")

    low: float = Field(default=0.2, ge=0, le=1)
    """Where A < 0, the ratio is bounded below 1 - low."""
    high: Weight = 0.2
    """Where A > 0, the ratio is bounded above 1 + high."""
    beta1: Weight = 0.75
    """Share of the gradient below."""
    beta2: Weight = 1.0
    """Share of the gradient above."""
    dual: float = Field(default=10.0, gt=1, le=1_000_000)
    """Bound of the loss in units of |advantage| where the advantage is negative."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        credit, d = live.credit, live.logprobs - live.old_logprobs
        rest = (credit.advantages, credit.clip_low, credit.clip_high)
        ratio, unit = importance_ratios(d), (d - d.detach()).exp()
        low, high = clipped_sides(ratio.detach(), *rest)
        bounded = torch.where(low, self.beta1 * (1 - credit.clip_low) * unit, ratio)
        bounded = torch.where(high, self.beta2 * (1 + credit.clip_high) * unit, bounded)
        dual = (credit.advantages < 0) & (bounded.detach() > self.dual)
        bounded = torch.where(dual, self.dual, bounded)
        return -credit.weights * credit.advantages * bounded, (low, high, dual)
