"""DGPO (decoupled gradient): clipped tokens keep a gradient that fades."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import clipped_sides, importance_ratios
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class Dgpo(Clipped):
    """weight * -A w grad logprob, w = r, but r (r / (1 - low))^n below, r ((1 + high) / r)^(1 / m).

    Below is where A < 0 and r < 1 - low, above, the last, where A > 0 and r > 1 + high. The loss
    has the value of -A w, too. There is no dual clip. The paper's n is 2 for 1.5B models.

    Source: DGPO (decoupled gradient), arXiv 2603.14389
    Status: checked against authors' code
    """

    low: float = Field(default=0.2, ge=0, le=1)
    """Where A < 0, the gradient fades below the ratio 1 - low."""
    high: Weight = 0.2
    """Where A > 0, the gradient fades above the ratio 1 + high."""
    n: float = Field(default=1.0, ge=0, le=1_000)
    """How fast it fades below."""
    m: float = Field(default=2.0, ge=1, le=1_000)
    """How slowly it fades above: the gradient grows as r^(1 - 1 / m)."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        credit, d = live.credit, live.logprobs - live.old_logprobs
        ratio = importance_ratios(d)
        fixed, unit = ratio.detach(), (d - d.detach()).exp()
        low, high = clipped_sides(fixed, credit.advantages, credit.clip_low, credit.clip_high)
        below = fixed * (fixed / (1 - credit.clip_low)) ** self.n
        above = fixed * ((1 + credit.clip_high) / fixed) ** (1 / self.m)
        faded = torch.where(low, below, above.where(high, 0.0))  # Finite: it has a gradient.
        weight = torch.where(low | high, faded * unit, ratio)
        return -credit.weights * credit.advantages * weight, (low, high)
