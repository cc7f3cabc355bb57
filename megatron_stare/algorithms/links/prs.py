"""Dr. Kernel's rejection of turns that are right without code of their own."""

from __future__ import annotations

from pydantic import Field

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import PROFILES, TURNS
from megatron_stare.system.values import PositiveWeight


class Prs(Link[None]):
    """weight * [u < clamp((coverage - low) / width, 0, 1)] on correct turns, u uniform in [0, 1).

    Turns that are not correct are kept. What is dropped stays in the denominator; the code takes it
    out of the response mask, and can keep a fast turn whatever it covers.

    Source: Dr. Kernel, arXiv 2602.05885
    Status: checked against authors' code
    """

    scope = "sample"
    needs = frozenset({TURNS, PROFILES})

    low: float = Field(default=0.3, ge=0, le=1)
    """The coverage up to which a correct turn is dropped for certain."""
    width: PositiveWeight = 0.1
    """How much more of it is kept for certain."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Draw for every turn."""
        turns, said = step[TURNS], step[PROFILES]
        chance = ((said.coverage - self.low) / self.width).clamp(0, 1)
        drawn = step.drawn(len(turns.samples), "prs")
        dropped = turns.of_tokens((said.correct > 0) & (drawn >= chance))[step.index]
        return credit.scaled(0.0, dropped.to(step.mask.device))
