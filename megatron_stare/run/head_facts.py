"""From what the head has said of this rank's tokens to what links read of it."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.hooks import HeadNeed
from megatron_stare.algorithms.needs import HiddenRanks, RankDynamics
from megatron_stare.data.packing import Share
from megatron_stare.types import TokenBatch


def fact_of(
    need: HeadNeed[Any], rows: Tensor, batch: TokenBatch, share: Share, dp_group: dist.ProcessGroup
) -> Any:
    """The value of a need. Collective.

    Args:
        rows: float32 `[rows, r]`; 0 for tokens that are not counted.
        dp_group: ranks that hold the other tokens.
    """
    if isinstance(need, HiddenRanks):
        return RankDynamics(_of_samples(rows, batch, share, dp_group))
    (of_tokens,) = rows
    return of_tokens


def _of_samples(rows: Tensor, batch: TokenBatch, share: Share, group: dist.ProcessGroup) -> Tensor:
    """What every counted token says of its sample, `[B, rows]`; 0 of a sample that has none."""
    whole = rows.new_zeros(len(rows), len(batch))
    sample_ids = batch.sample_ids[share.index].to(rows.device)
    counted = batch.loss_mask[share.index].to(rows.device)
    whole[:, sample_ids[counted]] = rows[:, counted]
    # Each sample is on one data-parallel rank: the others add nothing but zeros.
    dist.all_reduce(whole, group=group)
    return whole.T.cpu()
