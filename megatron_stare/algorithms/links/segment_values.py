"""Credit of segments, from what cuts of a response are worth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import CUTS
from megatron_stare.types import RolloutBatch


class SegmentValues(Link[None]):
    """A = V(next cut) - V(cut) of each segment, and reward - V(cut) of a sample's last one.

    A cut's value is that of what stands before its token. Tokens before a sample's first cut have
    advantage 0. Of SPO's trees it is the advantage of an edge, which its code calls rloo.

    Source: SPO, arXiv 2505.23564
    Status: paper
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({CUTS})

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its segment's advantage."""
        gains = of_segments(step[CUTS].values, step.rollouts, torch.diff)
        return credit.with_advantages(gains[step.index].to(step.mask.device))


def of_segments(values: Tensor, batch: RolloutBatch, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """What each token's segment is given, float64 `[R]`; 0 before a sample's first cut.

    Args:
        values: float `[R]`: of what stands before a token that begins a segment; NaN elsewhere.
        gain: of a sample's s segments, `[s]`, from its cuts' values and its reward, `[s + 1]`.
    """
    given = [torch.empty(0, dtype=torch.float64)]
    parts = values.double().split(batch.response_lengths.tolist())
    for part, reward in zip(parts, batch.rewards.double(), strict=True):
        cuts = (~part.isnan()).nonzero()[:, 0]
        ends = torch.cat([cuts, torch.tensor([len(part)])])
        known = torch.cat([part[cuts], reward[None]])
        given += [part.new_zeros(int(ends[0])), gain(known).repeat_interleave(ends.diff())]
    return torch.cat(given)
