"""TurningPoint: a segment that turns towards the outcome is paid for it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.links.segment_values import of_segments
from megatron_stare.algorithms.needs import CUTS
from megatron_stare.system.values import Weight


class TurningPoint(Link[None]):
    """A = d + eta D of a segment that turns, else d: d its gain in value, D reward - first value.

    A segment turns where d has the sign of D, and that of the segment before the other one. Made
    for steps of image generation; here the values of cuts stand for completions without noise.

    Source: TP-GRPO, arXiv 2602.06422
    Status: checked against authors' code
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({CUTS})

    eta: Weight = 1.0
    """How much turning is worth."""
    main: Literal["step", "whole"] = "step"
    """What every segment is given: its d, or D."""
    bonus: Literal["whole", "rest", "step"] = "whole"
    """What one that turns is given: D, the reward minus its cut's value, or d."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its segment's advantage."""
        given = of_segments(step[CUTS].values, step.rollouts, self._given)
        return credit.with_advantages(given[step.index].to(step.mask.device))

    def _given(self, known: Tensor) -> Tensor:
        gains, whole = known.diff(), (known[-1] - known[:1]).expand(len(known) - 1)
        signs = gains.sign() * whole.sign()
        turns = torch.zeros_like(signs)
        turns[1:] = ((signs[1:] > 0) & (signs[:-1] < 0)).double()
        of = {"step": gains, "whole": whole, "rest": known[-1] - known[:-1]}
        return of[self.main] + self.eta * turns * of[self.bonus]
