"""A bonus for entropy that counts for less where entropy leaves its history."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import model_validator
from torch import Tensor

from megatron_stare.algorithms.hooks import Live, Step, Term
from megatron_stare.algorithms.links.epo import HISTORY
from megatron_stare.system.values import PositiveWeight, Weight


class SmoothedEntropy(Term[Tensor]):
    """-coef * (H - smooth * penalty), penalty = 0 where low * mean < H < high * mean, else delta.

    The mean is what `epo` has left; without one, in the first step, there is no penalty. As in the
    authors' code the penalty is a constant: it shows in the loss, and has no gradient. With `fades`
    coef is multiplied by 1 - 0.2 (1 - e^(-4 p)), p the share of the run's steps that are done, and
    in its second half by 0.8 e^(-3 (2 p - 1)), which is where theirs jumps, too.

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
    fades: bool = False
    """Whether the bonus fades over the run."""

    @model_validator(mode="after")
    def _is_ordered(self) -> SmoothedEntropy:
        if self.low >= self.high:
            raise ValueError(f"low={self.low}: expected less than high={self.high}")
        return self

    def prepare(self, step: Step) -> Tensor:
        """The mean of the steps before, and the bonus's weight, `[r, 2]`."""
        weight = self.coef * (_left(step.progress) if self.fades else 1.0)
        return torch.stack([step[HISTORY], torch.full_like(step[HISTORY], weight)], dim=1)

    def loss(self, live: Live, fields: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The bonus of each token, as a loss."""
        now = live.entropies.detach()
        mean, weight = fields.unbind(dim=1)
        is_usual = (self.low * mean < now) & (now < self.high * mean)
        penalty = torch.where(is_usual | (mean == 0), 0.0, self.delta)
        return -weight * (live.entropies - self.smooth * penalty), ()


def _left(gone: float) -> float:
    if gone <= 0.5:
        return 1 - 0.2 * (1 - math.exp(-4 * gone))
    return 0.8 * math.exp(-3 * (2 * gone - 1))
