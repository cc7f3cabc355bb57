"""The clipped surrogate of PPO, with clip-higher and a dual clip."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import clip_shares, clipped_policy_loss
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class Clip(Clipped):
    """weight * max(-A r, -A clip(r, 1 - low, 1 + high)), for A < 0 at most -A dual.

    r is the ratio of the policy to that which starts the step, exp(logprob - old).

    Source: PPO, arXiv 1707.06347; high, DAPO, arXiv 2503.14476; dual, arXiv 1912.09729
    Status: checked against authors' code
    """

    shares = ("loss/clip_low_share", "loss/clip_high_share", "loss/dual_clip_share")

    low: float = Field(default=0.2, ge=0, le=1)
    """The ratio is clipped below at 1 - low; not at all if it is 1."""
    high: Weight = 0.28
    """The ratio is clipped above at 1 + high."""
    dual: float = Field(default=10.0, gt=1, le=1_000_000)
    """Bound of the loss in units of |advantage| where the advantage is negative."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        tokens = (live.old_logprobs, live.credit.advantages)
        bounds = {
            "clip_low": live.credit.clip_low,
            "clip_high": live.credit.clip_high,
            "dual_clip": self.dual,
        }
        weights = live.credit.weights
        loss = clipped_policy_loss(live.logprobs, *tokens, **bounds, weights=weights)
        return loss, clip_shares(live.logprobs.detach(), *tokens, **bounds)
