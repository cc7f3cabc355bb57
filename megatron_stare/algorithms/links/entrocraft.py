"""Entrocraft: samples of one sign are rejected while entropy is out of its band."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import model_validator
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Metric, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.schedules import Shape, eased
from megatron_stare.system.values import PositiveWeight


class Entrocraft(Link[None]):
    """A = 0 where A > 0 while the batch's entropy is below its band, where A < 0 while above.

    The band moves over the run. It stands behind any baseline; the code has
    the reward in the place of its advantage while entropy is out of the band. What is rejected
    stays in the denominator, as there.

    Source: Entrocraft, arXiv 2604.26326
    Status: derived
    """

    needs = frozenset({OLD})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "entropy/rejected_share": Metric(
            "share", "Tokens whose advantage is taken as entropy is out of its band."
        ),
    }

    low: PositiveWeight = 0.6
    """Lower end of the band at the start of a run, nats a token: the code's for Qwen3-4B."""
    high: PositiveWeight = 0.7
    """Upper end there."""
    low_last: PositiveWeight = 0.4
    """Lower end of the band at the end of a run."""
    high_last: PositiveWeight = 0.5
    """Upper end there."""
    shape: Shape = "linear"
    """How it moves: along a line, or half a wave."""

    @model_validator(mode="after")
    def _is_a_band(self) -> Entrocraft:
        for low, high in ((self.low, self.high), (self.low_last, self.high_last)):
            if low > high:
                raise ValueError(f"a band from {low} to {high}: expected the lower end first")
        return self

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Take the advantage of what is rejected."""
        return credit.with_advantages(credit.advantages.masked_fill(self._of(credit, step), 0.0))

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How many tokens were rejected."""
        return {"entropy/rejected_share": float(step.stats.mean(self._of(credit, step)))}

    def _of(self, credit: Credit, step: Step) -> Tensor:
        return step.once(self, lambda: self._rejected(credit.advantages, step))

    def _rejected(self, advantages: Tensor, step: Step) -> Tensor:
        gone = eased(step.progress, self.shape)
        low = (1 - gone) * self.low + gone * self.low_last
        high = (1 - gone) * self.high + gone * self.high_last
        entropy = step.stats.mean(step[OLD].entropies)
        return torch.where(advantages > 0, entropy < low, (advantages < 0) & (entropy > high))
