"""The clipped surrogate with advantages by where a token's entropy stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step
from megatron_stare.algorithms.links.hapo import PLACE
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.system.values import Weight


class HapoClip(Clip):
    """The clipped surrogate with A (1 + beta h) for A, in or out of a neutral zone of the ratio.

    The zone is half of a token's clip range to each side: in it where h <= 0, out of it where
    h > 0. The link `hapo` has left h, and the ranges.

    Source: HAPO (heterogeneous), arXiv 2509.16591
    Status: checked against authors' code
    """

    needs = frozenset({PLACE})

    high: Weight = 0.2
    """The ratio is clipped above at 1 + high."""
    beta: float = Field(default=1.0, ge=0, le=1)
    """How much A changes where |h| is 1."""

    def prepare(self, step: Step) -> Any:
        """h, `[r]`."""
        return step[PLACE]

    def loss(self, live: Live, fields: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, and which of them each bound holds back."""
        ratio = importance_ratios(live.logprobs.detach() - live.old_logprobs)
        low, high = live.credit.clip_low / 2, live.credit.clip_high / 2
        is_neutral = (ratio > 1 - low) & (ratio < 1 + high)
        factor = torch.where(is_neutral == (fields <= 0), 1 + self.beta * fields, 1.0)
        credit = live.credit.with_advantages(live.credit.advantages * factor)
        return super().loss(live._replace(credit=credit), None)
