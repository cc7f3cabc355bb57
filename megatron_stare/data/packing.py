"""Which sample goes to which data-parallel rank and micro-batch.

A plan is made from lengths alone, identically on every rank, in three moves per optimizer update:
    split     the batch into updates by whole groups, in batch order
    balance   samples over data-parallel ranks by tokens, longest first onto the lightest rank
    pack      each rank's samples into micro-batches within the token budget (first-fit decreasing)
Every sample is in exactly one micro-batch, no micro-batch exceeds the budget, and all ranks have
equally many micro-batches (the schedules are collective): a rank with fewer gets empty ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.types import TokenBatch

MicroBatches = list[tuple[int, ...]]
"""Sample ids of each micro-batch of one data-parallel rank."""


@dataclass(frozen=True, slots=True)
class Share:
    """One data-parallel rank's part of a batch of R response tokens; `r` of them are here.

    samples  of each optimizer update, over all ranks
    updates  micro-batches of each update, on this rank
    index    int64 `[r]`: where this rank's tokens stand in the batch's order. Their own order is
             update after update, micro-batch after micro-batch, sample after sample.
    """

    samples: Sequence[Sequence[int]]
    updates: Sequence[MicroBatches]
    index: Tensor

    @property
    def micro_batches(self) -> MicroBatches:
        """All micro-batches, in order."""
        return [micro_batch for update in self.updates for micro_batch in update]


def plan_share(
    batch: TokenBatch,
    samples: Sequence[Sequence[int]],
    *,
    dp_rank: int,
    dp_size: int,
    max_tokens: int,
) -> Share:
    """This rank's share of a batch; `samples` are the sample ids of each optimizer update."""
    lengths = batch.lengths.tolist()
    updates = [plan_micro_batches(ids, lengths, dp_size, max_tokens)[dp_rank] for ids in samples]
    ends = batch.response_lengths.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    spans = [
        torch.arange(starts[i], ends[i])
        for micro_batches in updates
        for micro_batch in micro_batches
        for i in micro_batch
    ]
    return Share(samples, updates, torch.cat(spans) if spans else torch.empty(0, dtype=torch.int64))


def split_updates(group_ids: Sequence[int], num_updates: int) -> list[list[int]]:
    """Sample ids of each optimizer update: consecutive groups, as evenly as they divide."""
    groups = list(dict.fromkeys(group_ids))
    update_of = {group: i * num_updates // len(groups) for i, group in enumerate(groups)}
    updates: list[list[int]] = [[] for _ in range(num_updates)]
    for sample, group in enumerate(group_ids):
        updates[update_of[group]].append(sample)
    return updates


def plan_micro_batches(
    samples: Sequence[int], lengths: Sequence[int], dp_size: int, max_tokens: int
) -> list[MicroBatches]:
    """Micro-batches of every data-parallel rank for one update.

    Args:
        samples: ids of the update's samples.
        lengths: prompt + response tokens of every sample of the batch, indexed by id.
        dp_size: data-parallel ranks.
        max_tokens: token budget of a micro-batch.

    Raises:
        UserError: a sample alone exceeds the budget.
    """
    for sample in samples:
        if lengths[sample] > max_tokens:
            raise UserError(
                f"sample {sample} has {lengths[sample]} tokens, more than "
                f"max_tokens_per_micro_batch={max_tokens}"
            )
    longest_first = sorted(samples, key=lambda sample: (-lengths[sample], sample))
    ranks = [
        _pack(share, lengths, max_tokens) for share in _balance(longest_first, lengths, dp_size)
    ]
    most = max(len(micro_batches) for micro_batches in ranks)
    return [[*micro_batches, *[()] * (most - len(micro_batches))] for micro_batches in ranks]


def _balance(longest_first: Sequence[int], lengths: Sequence[int], dp_size: int) -> list[list[int]]:
    shares: list[list[int]] = [[] for _ in range(dp_size)]
    loads = [0] * dp_size
    for sample in longest_first:
        lightest = loads.index(min(loads))
        shares[lightest].append(sample)
        loads[lightest] += lengths[sample]
    return shares


def _pack(longest_first: Sequence[int], lengths: Sequence[int], max_tokens: int) -> MicroBatches:
    bins: list[list[int]] = []
    room: list[int] = []
    for sample in longest_first:
        fit = next((i for i, free in enumerate(room) if free >= lengths[sample]), None)
        if fit is None:
            bins.append([])
            room.append(max_tokens)
            fit = len(bins) - 1
        bins[fit].append(sample)
        room[fit] -= lengths[sample]
    return [tuple(sorted(samples)) for samples in bins]
