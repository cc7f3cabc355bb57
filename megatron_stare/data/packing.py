"""Which sample goes to which data-parallel rank and micro-batch.

A plan is made from lengths alone, identically on every rank, in three moves per optimizer update:
    split     the batch into updates by whole groups, in batch order
    balance   samples over data-parallel ranks by cost, dearest first onto the least loaded rank
    pack      each rank's samples into micro-batches within the token budget, one as full as can be
              after another
Every sample is in exactly one micro-batch, no micro-batch exceeds the budget, and all ranks have
equally many micro-batches (the schedules are collective): a rank with fewer gets empty ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.system.balance import balanced
from megatron_stare.types import TokenBatch

MicroBatches = list[tuple[int, ...]]
"""Sample ids of each micro-batch of one data-parallel rank."""


@dataclass(frozen=True, slots=True)
class SampleCost:
    """What a sample costs to train on, in any one unit: attention reads pairs of tokens, the matrix
    products read tokens, and the output layer only those that predict a counted response token."""

    per_token: float
    per_loss_token: float
    per_token_pair: float

    def __call__(self, num_tokens: int, num_loss_tokens: int) -> float:
        """The cost of one sample of `num_tokens`, prompt and response."""
        return (
            self.per_token * num_tokens
            + self.per_loss_token * num_loss_tokens
            + self.per_token_pair * num_tokens**2
        )


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

    def of(self, samples: Sequence[int], batch: TokenBatch) -> tuple[MicroBatches, Tensor]:
        """Micro-batches of some samples, on whatever rank, and where their tokens stand here.

        All ranks have equally many, of the updates that any of the samples is planned for.

        Returns:
            The micro-batches, and int64 `[r']`, indices of this rank's tokens, in their order.
        """
        wanted = set(samples)
        planned = zip(self.samples, self.updates, strict=True)
        updates = [micro_batches for ids, micro_batches in planned if wanted.intersection(ids)]
        micro_batches = [
            tuple(sample for sample in micro_batch if sample in wanted)
            for update in updates
            for micro_batch in update
        ]
        lengths = batch.response_lengths.tolist()
        here = [sample for micro_batch in self.micro_batches for sample in micro_batch]
        ends = accumulate(lengths[sample] for sample in here)
        starts = {i: end - lengths[i] for i, end in zip(here, ends, strict=True)}
        chosen = [sample for micro_batch in micro_batches for sample in micro_batch]
        tokens = [torch.arange(lengths[sample]) + starts[sample] for sample in chosen]
        return micro_batches, torch.cat([torch.empty(0, dtype=torch.int64), *tokens])


def plan_share(
    batch: TokenBatch,
    samples: Sequence[Sequence[int]],
    *,
    dp_rank: int,
    dp_size: int,
    max_tokens: int,
    cost: SampleCost,
    sample_multiple: int = 1,
) -> Share:
    """This rank's share of a batch.

    Args:
        batch: the global batch.
        samples: sample ids of each optimizer update.
        dp_rank: this rank among `dp_size` data-parallel ones.
        dp_size: data-parallel ranks.
        max_tokens: token budget of a micro-batch.
        cost: what the ranks should have equally much of.
        sample_multiple: a sample takes up the next multiple of this many tokens.

    Raises:
        UserError: a sample alone exceeds the budget.
    """
    lengths = (-(-batch.lengths // sample_multiple) * sample_multiple).tolist()
    costs = [cost(*pair) for pair in zip(lengths, batch.num_loss_tokens.tolist(), strict=True)]
    updates = [
        plan_micro_batches(ids, lengths, costs, dp_size=dp_size, max_tokens=max_tokens)[dp_rank]
        for ids in samples
    ]
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
    samples: Sequence[int],
    lengths: Sequence[int],
    costs: Sequence[float],
    *,
    dp_size: int,
    max_tokens: int,
) -> list[MicroBatches]:
    """Micro-batches of every data-parallel rank for one update.

    Args:
        samples: ids of the update's samples.
        lengths: tokens each sample of the batch takes up, indexed by id.
        costs: indexed by id.
        dp_size: data-parallel ranks.
        max_tokens: token budget of a micro-batch.

    Raises:
        UserError: a sample alone exceeds the budget.
    """
    for sample in samples:
        if lengths[sample] > max_tokens:
            raise UserError(
                f"sample {sample} takes {lengths[sample]} tokens, more than "
                f"max_tokens_per_micro_batch={max_tokens}"
            )
    shares = balanced({sample: costs[sample] for sample in samples}, dp_size)
    ranks = [_pack(share, lengths, max_tokens) for share in shares]
    most = max(len(micro_batches) for micro_batches in ranks)
    return [[*micro_batches, *[()] * (most - len(micro_batches))] for micro_batches in ranks]


def _pack(samples: Sequence[int], lengths: Sequence[int], max_tokens: int) -> MicroBatches:
    """Micro-batches within the budget: the longest sample left, and what fills its room best."""
    waiting: dict[int, list[int]] = {}
    for sample in sorted(samples, reverse=True):
        waiting.setdefault(lengths[sample], []).append(sample)
    sizes, micro_batches = sorted(waiting), []
    while sizes:
        longest = sizes[-1]
        taken = [waiting[longest].pop()]
        others = _fullest(sizes, waiting, max_tokens - longest)
        taken += [waiting[size].pop() for size in others]
        for size in {longest, *others}:
            if not waiting[size]:
                sizes.remove(size)
        micro_batches.append(tuple(sorted(taken)))
    return micro_batches


def _fullest(
    sizes: Sequence[int], waiting: Mapping[int, Sequence[int]], room: int
) -> Sequence[int]:
    """Of ascending sizes, some that sum to as much of `room` as any do, long rather than short.

    Subset sums as bits of integers: bit t of `sums[i]` says that some of the first i sum to t. Of
    one size there are as many as wait, and no more than `room` could take.
    """
    tried: list[int] = []
    sums, in_room = [1], (2 << room) - 1
    for place in range(bisect_right(sizes, room) - 1, -1, -1):
        size = sizes[place]
        for _ in range(min(len(waiting[size]), room // max(size, 1))):
            tried.append(size)
            sums.append(sums[-1] | (sums[-1] << size) & in_room)
        if sums[-1] >> room:
            break
    total = sums[-1].bit_length() - 1
    chosen = []
    for i in range(len(tried), 0, -1):
        if not sums[i - 1] >> total & 1:
            chosen.append(tried[i - 1])
            total -= tried[i - 1]
    return chosen
