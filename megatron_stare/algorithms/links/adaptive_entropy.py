"""A bonus for entropy whose coefficient is moved until entropy stands at its target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import model_validator

from megatron_stare.algorithms.hooks import Credit, Link, Mark, Metric, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import PositiveWeight, Weight

COEFFICIENT = Mark("entropy_coefficient")
"""What a nat of a token's entropy is worth."""


@dataclass(frozen=True)
class Bonus:
    """The coefficient, and whether it is in force."""

    coef: float
    is_on: bool = False


class AdaptiveEntropy(Link[Bonus]):
    """Marks coef * 1[H < target], coef <- clip(coef +- delta, low, high), + while H < target.

    H is the batch's mean entropy before the step, in nats; one that is not finite moves nothing.
    The coefficient is moved before it is used. TRL moves it by 0.005, and takes H = target for low.

    Source: Skywork-OR1, arXiv 2505.22312
    Status: checked against authors' code
    """

    needs = frozenset({OLD})
    marks = frozenset({COEFFICIENT})

    metrics: ClassVar[Mapping[str, Metric]] = {
        "adaptive_entropy/coefficient": Metric("1", "Weight of the entropy bonus while it is on."),
    }

    target: PositiveWeight = 0.2
    """Entropy below which the bonus is in force, nats per token."""
    delta: PositiveWeight = 1e-4
    """How far a step moves the coefficient."""
    first: Weight = 0.0
    """Where it starts."""
    low: Weight = 0.0
    """Smallest coefficient."""
    high: Weight = 0.005
    """Largest coefficient."""

    @model_validator(mode="after")
    def _is_ordered(self) -> AdaptiveEntropy:
        if not self.low <= self.first <= self.high:
            raise ValueError(f"first={self.first}: expected low={self.low} to high={self.high}")
        return self

    def start(self) -> Bonus:
        """Not in force."""
        return Bonus(self.first)

    def advance(self, state: Bonus, step: Step) -> Bonus:
        """Move towards the target."""
        entropy = float(step.stats.mean(step[OLD].entropies))
        if not math.isfinite(entropy):
            return state
        moved = state.coef + (self.delta if entropy < self.target else -self.delta)
        return Bonus(min(max(moved, self.low), self.high), entropy < self.target)

    def apply(self, credit: Credit, step: Step, state: Bonus) -> Credit:
        """Leave the coefficient on every token."""
        in_force = state.coef if state.is_on else 0.0
        step.facts[COEFFICIENT] = torch.full_like(credit.weights, in_force)
        return credit

    def report(self, credit: Credit, step: Step, state: Bonus) -> Mapping[str, float]:
        """Where the coefficient stands."""
        return {"adaptive_entropy/coefficient": state.coef}
