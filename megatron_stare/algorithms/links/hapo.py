"""Advantages, clip ranges and a neutral zone by where a token's entropy stands in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, group_advantages, without_rounding
from megatron_stare.algorithms.hooks import Credit, Link, Live, Mark, Step
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.system.values import PositiveWeight, Share, Weight
from megatron_stare.types import RolloutBatch

PLACE = Mark("entropy_place")
"""h of each token, in [-1, 1]."""


class TokenMean(SampleAdvantages):
    """A = (r - mean) / (std + 1e-6) over the tokens of a group, each with its sample's reward.

    With the population std; 0 in a group of one. Where a sample has |A| >= `limit`, its group's A
    is GRPO's. In the authors' code padding, at which A is mean / std, may set this off, too.

    Source: HAPO (heterogeneous), arXiv 2509.16591
    Status: checked against authors' code
    """

    limit: PositiveWeight = 5.0
    """Largest |A|."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Rewards weighted by length, against their mean."""
        groups, rewards = Groups(batch.group_ids), batch.rewards.double()
        lengths = batch.num_loss_tokens.double()
        total = groups.sum(lengths).clamp(min=1)
        centred = without_rounding(rewards - groups.sum(rewards * lengths) / total, rewards)
        std = (groups.sum(centred.square() * lengths) / total).sqrt()
        advantages = torch.where(lengths > 0, centred / (std + 1e-6), 0.0)
        is_wide = groups.sum((advantages.abs() >= self.limit).double()) > 0
        grpo = group_advantages(rewards, batch.group_ids)
        return torch.where(is_wide, grpo, advantages).to(batch.rewards.dtype)


class Hapo(Link[None]):
    """Clip ranges low (1 - alpha h) where h <= 0 and high (1 + alpha h) where h > 0; marks h.

    h = (ln H - q) / its largest absolute value of the same sign, H the entropy before the step in
    nats, at least 1e-8, and q the batch's nearest-rank quantile of ln H: from -1 to 1, 0 at q. As
    committed, the authors' code takes h of the other sign where it is negative, so that tokens of
    low entropy, too, get a wider range above; their text says what is intended. The statistics are
    the batch's, theirs the micro-batch's. The sampler's temperature, T (1 + 0.05 h), is not here.

    Source: HAPO (heterogeneous), arXiv 2509.16591
    Status: checked against authors' code
    """

    needs = frozenset({OLD})
    marks = frozenset({PLACE})

    quantile: Share = 0.8
    """Which quantile of ln H is the pivot, q."""
    alpha: float = Field(default=1.0, ge=0, le=1)
    """How much wider a range is where |h| is 1."""
    sign: Literal["intended", "committed"] = "intended"
    """Of h at low entropies."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Widen the ranges, and leave h."""
        place = self._places(step[OLD].entropies, credit.counted, step)
        step.facts[PLACE] = place.to(credit.weights.dtype)
        wider, is_high = self.alpha * place.abs(), place > 0
        low, high = credit.clip_low * (1 + wider), credit.clip_high * (1 + wider)
        return credit._replace(
            clip_low=torch.where(is_high, credit.clip_low, low).to(credit.weights.dtype),
            clip_high=torch.where(is_high, high, credit.clip_high).to(credit.weights.dtype),
        )

    def _places(self, entropies: Tensor, counted: Tensor, step: Step) -> Tensor:
        logs = entropies.nan_to_num(0.0, 0.0, 0.0).clamp(min=1e-8).log().float()
        number = step.stats.count(counted).long()
        rank = (self.quantile * (number - 1)).round().long()
        pivot = step.stats.kth(logs, (number - rank).clamp(min=1), counted)
        apart = torch.where(counted, logs.double() - pivot, 0.0)
        above, below = step.stats.max(apart, counted), -step.stats.min(apart, counted)
        low = apart / below.nan_to_num(1.0).clamp(min=1e-12)
        low = low if self.sign == "intended" else -low
        return torch.where(apart > 0, apart / above.nan_to_num(1.0).clamp(min=1e-12), low)


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
