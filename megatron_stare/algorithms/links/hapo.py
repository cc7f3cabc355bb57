"""Clip ranges, and the sampler's temperatures, by where a token's entropy stands in the batch."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.advantages import ROUNDING
from megatron_stare.algorithms.hooks import Credit, Drawing, Link, Mark, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.system.values import Share

PLACE = Mark("entropy_place")
"""h of each token, in [-1, 1]."""


class Hapo(Link[EntropyTemperature]):
    """Clip ranges low (1 - alpha h) where h <= 0 and high (1 + alpha h) where h > 0; marks h.

    h = (ln H - q) / its largest absolute value of the same sign, H the entropy before the step in
    nats, at least 1e-8, and q the batch's nearest-rank quantile of ln H: from -1 to 1, 0 at q. The
    next step's tokens are drawn at T (1 + tau h) for the temperature T, h by this step's q and
    largest values and by H at T, and are learned from at that temperature; the authors' trainer
    takes T for them. As committed, their code takes h of the other sign where it is negative, so
    that tokens of low entropy, too, get a wider range above, and are drawn hotter; their text says
    what is intended. The statistics are the batch's, theirs the micro-batch's.

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
    tau: float = Field(default=0.05, ge=0, le=0.9)
    """How much the sampler's temperature moves where |h| is 1; 0 leaves it alone."""

    def start(self) -> EntropyTemperature:
        """No temperature moves."""
        return EntropyTemperature()

    def advance(self, state: EntropyTemperature, step: Step) -> EntropyTemperature:
        """Where the entropies of this step stand."""
        number = step.stats.count().long()
        rank = (self.quantile * (number - 1)).round().long()
        logs = _entropies(step).clamp(min=1e-8).log().float()
        pivot = step.stats.kth(logs, (number - rank).clamp(min=1)).nan_to_num(0.0)
        above, below = (
            _unless_rounding(float((sign * (side(logs) - pivot)).nan_to_num(1.0)))
            for sign, side in ((1, step.stats.max), (-1, step.stats.min))
        )
        below = below if self.sign == "intended" else -below
        return EntropyTemperature(float(pivot), above, below, self.tau)

    def drawing(self, state: EntropyTemperature) -> Drawing:
        """At temperatures by the statistics of the last step; before, none moves."""
        return Drawing(rule=state if self.tau > 0 else None)

    def apply(self, credit: Credit, step: Step, state: EntropyTemperature) -> Credit:
        """Widen the ranges, and leave h."""
        place = state.places(_entropies(step).double()) * credit.counted
        step.facts[PLACE] = place.to(credit.weights.dtype)
        wider, is_high = 1 + self.alpha * place.abs(), place > 0
        low, high = credit.clip_low, credit.clip_high
        return credit._replace(
            clip_low=torch.where(is_high, low, low * wider).to(credit.weights.dtype),
            clip_high=torch.where(is_high, high * wider, high).to(credit.weights.dtype),
        )


def _unless_rounding(distance: float) -> float:
    """Of an extreme from the pivot; 1 where it is the pivot itself, so that h stays near 0."""
    return distance if distance > ROUNDING * 20 else 1.0  # ln H is 20 at most in size.


def _entropies(step: Step) -> Tensor:
    return step[OLD].entropies.nan_to_num(0.0, 0.0, 0.0)
