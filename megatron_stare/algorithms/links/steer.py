"""A smaller weight where an update would change the entropy most."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Multiple


class Steer(Link[None]):
    """weight * a factor that falls with |A (1 - p) (ln p + H)|, the entropy that a token moves.

    Omega is that estimate, p the token's probability. Linear: from `high` at the batch's smallest
    Omega to `low` at its largest; exponential: max(exp(-k Omega), low), k = -ln(low) / max(largest
    Omega, 0.02). Omega is of the policy before the step and extremes are the batch's; in the
    authors' code, of the policy that learns (A r in the place of A), and the micro-batch's.

    Source: STEER, arXiv 2510.10150
    Status: checked against authors' code
    """

    needs = frozenset({OLD})

    shape: Literal["exponential", "linear"] = "exponential"
    """How the factor falls."""
    low: float = Field(default=0.8, gt=0, le=1)
    """Smallest factor."""
    high: Multiple = 1.2
    """Largest factor of the linear shape; that of the exponential one is 1."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Multiply the weight of every token."""
        p = step[OLD].logprobs.exp().clamp(1e-8, 1 - 1e-8)
        omega = (credit.advantages * (1 - p) * (p.log() + step[OLD].entropies)).abs()
        omega = omega.nan_to_num(0.0, 0.0, 0.0).masked_fill(~credit.counted, 0.0)
        largest = step.stats.max(omega, credit.counted)
        if self.shape == "exponential":
            rate = math.log(self.low) / largest.clamp(min=0.02)
            return credit.scaled((rate * omega).exp().clamp(self.low, 1.0))
        smallest = step.stats.min(omega, credit.counted)
        place = (omega - smallest) / (largest - smallest)
        return credit.scaled(self.high - place.nan_to_num(0.5) * (self.high - self.low))
