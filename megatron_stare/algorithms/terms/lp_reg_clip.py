"""Lp-Reg's loss: rare tokens that the proxy finds likelier are drawn to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step
from megatron_stare.algorithms.links.lp_reg import PROXY
from megatron_stare.algorithms.losses import importance_ratios, kl_penalty
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.system.values import Weight


class LpRegClip(Clip):
    """The clipped surrogate; -weight A r + beta k3(proxy - logprob) where logprob < proxy.

    The link `lp_reg` has left the proxies; k3(d) = e^d - d - 1, at most 10. Clips leave the ratio
    from 0 to 10, and there is no dual one.

    Source: Lp-Reg, arXiv 2510.03222
    Status: checked against authors' code
    """

    needs = frozenset({PROXY})

    low: float = Field(default=1.0, ge=0, le=1)
    """The ratio is clipped below at 1 - low; not at all if it is 1."""
    high: Weight = 9.0
    """The ratio is clipped above at 1 + high."""
    dual: float = Field(default=1e6, gt=1, le=1_000_000)
    """Bound of the loss in units of |advantage| where the advantage is negative."""
    beta: Weight = 1.0
    """Weight of the penalty."""

    def prepare(self, step: Step) -> Any:
        """The proxies, `[r]`."""
        return step[PROXY]

    def loss(self, live: Live, fields: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        plain, shares = super().loss(live, None)
        ratio = importance_ratios(live.logprobs - live.old_logprobs)
        drawn = -live.credit.weights * live.credit.advantages * ratio
        drawn = drawn + self.beta * kl_penalty(live.logprobs, fields, "k3")
        return torch.where(live.logprobs.detach() < fields, drawn, plain), shares
