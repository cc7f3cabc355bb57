"""A surrogate under a soft gate in the place of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Term
from megatron_stare.algorithms.losses import importance_ratios


class Sapo(Term[None]):
    """weight * -A (4 / tau) sigmoid(tau (r - 1)), with a tau of its own for each sign of A.

    The gradient is that of PPO at r = 1, and fades on both sides. Nothing clips.

    Source: SAPO, arXiv 2511.20347
    Status: checked against authors' code
    """

    positive: float = Field(default=1.0, ge=0.001, le=1_000_000)
    """tau where A > 0."""
    negative: float = Field(default=1.05, ge=0.001, le=1_000_000)
    """tau elsewhere: larger, it fades sooner."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token."""
        advantages = live.credit.advantages
        ratio = importance_ratios(live.logprobs - live.old_logprobs)
        tau = torch.where(advantages > 0, self.positive, self.negative).to(ratio.dtype)
        gate = 4 / tau * (tau * (ratio - 1)).sigmoid()
        return -live.credit.weights * advantages * gate, ()
