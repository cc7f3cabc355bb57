"""The geometric mean of a sample's clipped ratios."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_stare.algorithms.hooks import Live
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.per_sample import sample_mean
from megatron_stare.algorithms.terms.clipped import Clipped
from megatron_stare.system.values import Weight


class Gmpo(Clipped):
    """weight * -A exp(mean of d), d = logprob - old, at most `high` for A > 0, else at least -low.

    The mean is over the counted tokens of a sample, each clipped by itself and in nats, on the side
    where PPO clips; what links say of clip ranges is in nats, too. It is held within 20 nats, which
    the authors' code is not.

    Source: GMPO, arXiv 2507.20673
    Status: checked against authors' code
    """

    low: Weight = 0.4
    """Where A < 0, the log-ratio is clipped below at -low, nats."""
    high: Weight = 0.4
    """Where A > 0, the log-ratio is clipped above at high, nats."""

    def loss(self, live: Live, fields: None) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        d, credit = live.logprobs - live.old_logprobs, live.credit
        low = (credit.advantages < 0) & (d < -credit.clip_low)
        high = (credit.advantages > 0) & (d > credit.clip_high)
        held = torch.where(low, -credit.clip_low, torch.where(high, credit.clip_high, d))
        held = torch.where(credit.advantages == 0, 0.0, held)
        mean = sample_mean(held, live.sample_ids, credit.counted)
        ratio = importance_ratios(mean).to(d.dtype)
        return -credit.weights * credit.advantages * ratio, (low, high)
