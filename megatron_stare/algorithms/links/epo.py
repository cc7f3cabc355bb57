"""EPO: what entropy has been, for a bonus that counts for less where it leaves its history."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from megatron_stare.algorithms.hooks import Credit, Link, Mark, Step
from megatron_stare.algorithms.needs import OLD

HISTORY = Mark("entropy_history")
"""The mean entropy of the steps before, nats; 0 in the first."""


@dataclass(frozen=True)
class Seen:
    """Mean entropies of steps: their sum and number, and their mean before this step."""

    total: float = 0.0
    count: int = 0
    before: float = 0.0


class Epo(Link[Seen]):
    """Marks the mean of the mean entropies of all steps before, in nats.

    The authors keep one for each turn of an agent; this is of the first turn, all that a sample of
    one turn has. Theirs acts from half of an agent's turns on, and perhaps fades over epochs.

    Source: EPO, arXiv 2509.22576
    Status: checked against authors' code
    """

    needs = frozenset({OLD})
    marks = frozenset({HISTORY})

    def start(self) -> Seen:
        """Nothing is seen."""
        return Seen()

    def advance(self, state: Seen, step: Step) -> Seen:
        """Remember this step's mean for the next; one that is not finite is forgotten."""
        before = state.total / state.count if state.count else 0.0
        mean = float(step.stats.mean(step[OLD].entropies))
        if not math.isfinite(mean):
            return Seen(state.total, state.count, before)
        return Seen(state.total + mean, state.count + 1, before)

    def apply(self, credit: Credit, step: Step, state: Seen) -> Credit:
        """Leave the mean on every token."""
        step.facts[HISTORY] = torch.full_like(credit.weights, state.before)
        return credit
