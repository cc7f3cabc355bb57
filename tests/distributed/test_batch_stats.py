"""The same scores give the same bits, however a batch is spread over ranks and micro-batches."""

from __future__ import annotations

import random
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.algorithms.batch_stats import BatchStats, Grouping
from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.groups import build_groups
from megatron_stare.types import RolloutBatch
from tests.ragged_batches import ragged_batches
from tests.worlds import run_world


def values_of(batch: RolloutBatch) -> Tensor:
    """Of very different sizes, so that sums show their order; NaN where nothing counts."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(len(batch.loss_mask), generator=generator)
    values *= 10.0 ** torch.randint(-6, 7, values.shape, generator=generator)
    return values.masked_fill(~batch.loss_mask, torch.nan)


def groupings(batch: RolloutBatch) -> dict[str, Grouping | None]:
    """By everything; turns are thirds of the samples, and anchors their lengths."""
    thirds = batch.response_lengths[:, None].add(torch.tensor([0, 1, 2])).floor_divide(3)
    turns = Grouping(torch.arange(thirds.numel()), thirds.flatten())
    return {
        "all": None,
        "sample": Grouping.by_sample(batch),
        "turn": turns,
        "group": Grouping.by_group(batch),
        "group and position": Grouping.by_group_and_position(batch),
        "anchor": Grouping(turns.lengths.unique(return_inverse=True)[1], turns.lengths),
    }


def statistics(whole: BatchStats, batch: RolloutBatch, values: Tensor) -> dict[str, Tensor]:
    """Everything there is to ask, of this rank's values: `[K]`, or `[r]`."""
    found = {}
    for name, grouping in groupings(batch).items():
        stats = whole if grouping is None else whole.by(grouping)
        counts = stats.count()
        found |= {
            f"{name} count": counts,
            f"{name} sum": stats.sum(values),
            f"{name} mean where positive": stats.mean(values, values > 0),
            f"{name} std": stats.std(values),
            f"{name} min": stats.min(values),
            f"{name} max": stats.max(values),
            f"{name} quantile": stats.quantile(values, 0.37),
            f"{name} top": stats.top(values, counts.div(3).ceil().long()),
            f"{name} whitened": stats.whiten(values),
        }
    return found


def index_of(batch: RolloutBatch, split: str, rank: int, size: int) -> Tensor:
    """This rank's tokens, its samples in an order of their own, as micro-batches have them."""
    rng = random.Random(split)
    owners = {
        "even": [sample % size for sample in range(len(batch))],
        "random": [rng.randrange(size) for _ in range(len(batch))],
        "one rank has all": [size - 1] * len(batch),
    }[split]
    mine = [sample for sample in range(len(batch)) if owners[sample] == rank]
    rng.shuffle(mine)
    spans = torch.arange(len(batch.loss_mask)).split(batch.response_lengths.tolist())
    return torch.cat([spans[sample] for sample in mine] or [torch.empty(0, dtype=torch.int64)])


def differences(rank: int, parallel: dict[str, int]) -> list[str]:
    """What is not, to the bit, what one process finds."""
    dp = build_groups(ParallelConfig.model_validate(parallel)).dp
    batch = ragged_batches(seed=0)[0]
    values = values_of(batch)
    whole = BatchStats(batch, torch.arange(len(values)))
    expected = statistics(whole, batch, values)
    found = []
    for split in ("even", "random", "one rank has all"):
        index = index_of(batch, split, dp.rank(), dp.size())
        stats = BatchStats(batch, index, group=dp)
        for name, value in statistics(stats, batch, values[index]).items():
            other = expected[name]
            other = other[index] if name.endswith(("top", "whitened")) else other
            same_bits = torch.equal(value.nan_to_num(-7.5), other.nan_to_num(-7.5))
            if not (same_bits and torch.equal(value.isnan(), other.isnan())):
                found.append(f"{split}: {name}")
    return found


def differences_of_totals(rank: int) -> list[str]:
    """The fault: each rank adds up what it has, and the totals are added."""

    def sums(stats: BatchStats, *columns: Tensor) -> Tensor:
        num_keys = len(stats.max(torch.ones_like(columns[0])))
        totals = torch.zeros(len(columns), num_keys, dtype=torch.float64)
        totals.index_add_(1, stats.keys, torch.stack(columns))
        if stats.group is not None:
            dist.all_reduce(totals, group=stats.group)
        return totals

    with mock.patch.object(BatchStats, "_sums", sums):
        return differences(rank, {})


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_data_parallel_ranks_and_micro_batches_change_no_bit(size):
    assert run_world(size, differences, {}) == [[]] * size


@pytest.mark.parametrize("parallel", [{"tensor": 2}, {"context": 2}, {"pipeline": 2}])
def test_replicas_find_the_same(parallel):
    assert run_world(4, differences, parallel) == [[]] * 4


def test_adding_up_each_rank_s_own_total_would_be_seen():
    found = run_world(2, differences_of_totals)
    assert "random: all sum" in found[0]
