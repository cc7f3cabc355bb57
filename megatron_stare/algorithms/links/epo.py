"""A bonus for entropy that counts for less where entropy leaves its history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import model_validator
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Live, Mark, Step, Term
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import PositiveWeight, Weight

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


class SmoothedEntropy(Term[Tensor]):
    """-coef * (H - smooth * penalty), penalty = 0 where low * mean < H < high * mean, else delta.

    The mean is what `epo` has left; without one, in the first step, there is no penalty. As in the
    authors' code the penalty is a constant: it shows in the loss, and has no gradient.

    Source: EPO, arXiv 2509.22576
    Status: checked against authors' code
    """

    needs = frozenset({HISTORY})
    differentiates_entropy = True

    coef: PositiveWeight = 0.001
    """Weight of the bonus."""
    smooth: Weight = 1.0
    """Weight of the penalty in it."""
    delta: Weight = 0.1
    """The penalty, nats."""
    low: Weight = 0.8
    """Where it begins, below, in means."""
    high: Weight = 1.2
    """Where it begins, above, in means."""

    @model_validator(mode="after")
    def _is_ordered(self) -> SmoothedEntropy:
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: expected less than high={self.high}")
        return self

    def prepare(self, step: Step) -> Tensor:
        """The mean of the steps before."""
        return step[HISTORY]

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The bonus of each token, as a loss."""
        now = live.entropies.detach()
        is_usual = (self.low * fields < now) & (now < self.high * fields)
        penalty = torch.where(is_usual | (fields == 0), 0.0, self.delta)
        return -self.coef * (live.entropies - self.smooth * penalty), ()
