"""How a setting moves over a run."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count, CountOrZero, Share

Shape = Literal["linear", "cosine"]
"""A straight line, or half a wave, which starts and ends slowly."""


class Waves(Settings):
    """Up along a line, then down half a wave again and again."""

    high: Share = 0.6
    """Where each wave begins."""
    low: float = Field(default=0.0, ge=0, le=1)
    """Where it ends."""
    steps: Count = 150
    """Steps of the way up and of `cycles` waves together; more waves follow."""
    warm_up: CountOrZero = 30
    """Steps of the way up."""
    cycles: Count = 3
    """Waves in `steps`."""

    @model_validator(mode="after")
    def _has_room(self) -> Waves:
        if self.low > self.high:
            raise ValueError(f"low={self.low} with high={self.high}: expected no more than high")
        if self.steps - self.warm_up < self.cycles:
            raise ValueError(
                f"steps={self.steps} with warm_up={self.warm_up}, cycles={self.cycles}: expected a "
                "step a wave, at least"
            )
        return self

    def at(self, step: int) -> float:
        """Of a step, from 0."""
        if step < self.warm_up:
            return self.high * (step + 1) / self.warm_up
        length = (self.steps - self.warm_up) // self.cycles
        gone = (step - self.warm_up) % length / length
        return self.high - (self.high - self.low) * eased(gone, "cosine")


def eased(gone: float, shape: Shape) -> float:
    """How much of the way is behind when `gone` of the steps are, both from 0 to 1."""
    return gone if shape == "linear" else (1 - math.cos(math.pi * gone)) / 2


def share_between(first: float, last: float, gone: float) -> float:
    """On a line; a sum's last bits are no part of a share."""
    return round((1 - gone) * first + gone * last, 12)
