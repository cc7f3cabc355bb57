"""The plan: every sample once, budgets kept, ranks in step, little of either wasted."""

import math
import random
from itertools import combinations

import pytest
import torch

from megatron_stare.data.packing import (
    SampleCost,
    plan_micro_batches,
    plan_share,
    split_updates,
)
from megatron_stare.errors import UserError
from megatron_stare.types import TokenBatch

COST = SampleCost(per_token=14e9, per_loss_token=1e9, per_token_pair=2e5)  # about 7B weights


def long_reasoning_lengths(n: int, seed: int) -> list[int]:
    """Log-normal, median 8192 tokens, cut at 32768."""
    rng = random.Random(seed)
    return [min(32768, math.ceil(8192 * math.exp(rng.gauss(0, 0.8)))) for _ in range(n)]


def batch_of(prompt_lengths: list[int], response_lengths: list[int]) -> TokenBatch:
    num_responses = sum(response_lengths)
    return TokenBatch(
        token_ids=torch.zeros(sum(prompt_lengths) + num_responses, dtype=torch.int64),
        prompt_lengths=torch.tensor(prompt_lengths),
        response_lengths=torch.tensor(response_lengths),
        loss_mask=torch.ones(num_responses, dtype=torch.bool),
    )


def sums(ranks, values) -> list[float]:
    return [sum(values[s] for mb in micro_batches for s in mb) for micro_batches in ranks]


@pytest.mark.parametrize("seed", range(20))
def test_every_sample_is_in_exactly_one_micro_batch_within_the_budget(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 100) for _ in range(rng.randint(1, 60))]
    costs = [COST(n, n) for n in lengths]
    samples = rng.sample(range(len(lengths)), k=rng.randint(1, len(lengths)))
    dp_size = rng.randint(1, 5)
    ranks = plan_micro_batches(samples, lengths, costs, dp_size=dp_size, max_tokens=128)
    placed = [s for micro_batches in ranks for micro_batch in micro_batches for s in micro_batch]
    assert sorted(placed) == sorted(samples)
    assert all(sum(lengths[s] for s in mb) <= 128 for mbs in ranks for mb in mbs)
    assert len({len(micro_batches) for micro_batches in ranks}) == 1
    reordered = rng.sample(samples, k=len(samples))
    assert ranks == plan_micro_batches(reordered, lengths, costs, dp_size=dp_size, max_tokens=128)


@pytest.mark.parametrize("dp_size", [2, 8, 16])
def test_ranks_carry_nearly_equal_cost(dp_size):
    lengths = long_reasoning_lengths(512, seed=0)
    costs = [COST(n, n) for n in lengths]
    ranks = plan_micro_batches(range(512), lengths, costs, dp_size=dp_size, max_tokens=32768)
    loads = sums(ranks, costs)
    assert max(loads) / (sum(loads) / dp_size) < 1.005


def test_a_long_sample_weighs_more_than_its_tokens():
    lengths = [1000, 500, 500, 500]
    quadratic = SampleCost(per_token=0, per_loss_token=0, per_token_pair=1)
    ranks = plan_micro_batches(
        range(4), lengths, [quadratic(n, n) for n in lengths], dp_size=2, max_tokens=1500
    )
    assert ranks == [[(0,)], [(1, 2, 3)]]


@pytest.mark.parametrize("seed", range(5))
def test_micro_batches_of_long_samples_are_98_percent_full(seed):
    lengths = long_reasoning_lengths(512, seed)
    [micro_batches] = plan_micro_batches(range(512), lengths, lengths, dp_size=1, max_tokens=32768)
    assert sum(lengths) / (32768 * len(micro_batches)) > 0.98


@pytest.mark.parametrize("sizes", [range(1, 61), (3, 7, 30, 33)], ids=["any", "few"])
@pytest.mark.parametrize("seed", range(20))
def test_the_first_micro_batch_is_as_full_as_any_with_the_longest_sample(seed, sizes):
    rng = random.Random(seed)
    lengths = [rng.choice(sizes) for _ in range(9)]
    [micro_batches] = plan_micro_batches(range(9), lengths, lengths, dp_size=1, max_tokens=100)
    longest = lengths.index(max(lengths))
    others = [n for sample, n in enumerate(lengths) if sample != longest]
    fills = [lengths[longest] + sum(some) for k in range(9) for some in combinations(others, k)]
    first = next(mb for mb in micro_batches if longest in mb)
    assert sum(lengths[s] for s in first) == max(fill for fill in fills if fill <= 100)


def test_a_rank_without_samples_gets_empty_micro_batches():
    ranks = plan_micro_batches([0, 1], [10, 8], [10, 8], dp_size=3, max_tokens=10)
    assert ranks == [[(0,)], [(1,)], [()]]


def test_a_sample_over_the_budget_is_refused_by_name():
    with pytest.raises(UserError, match=r"sample 1 takes 11 tokens.*max_tokens_per_micro_batch=10"):
        plan_micro_batches([0, 1], [10, 11], [10, 11], dp_size=1, max_tokens=10)


def test_a_share_lists_its_tokens_in_the_order_of_its_micro_batches():
    batch = batch_of(prompt_lengths=[3, 1, 2], response_lengths=[2, 4, 1])
    shares = [
        plan_share(batch, [[0, 1], [2]], dp_rank=rank, dp_size=2, max_tokens=8, cost=COST)
        for rank in range(2)
    ]
    assert [share.updates for share in shares] == [[[(1,)], [(2,)]], [[(0,)], [()]]]
    assert [share.index.tolist() for share in shares] == [[2, 3, 4, 5, 6], [0, 1]]


def test_the_budget_counts_samples_at_the_multiple_they_are_padded_to():
    batch = batch_of(prompt_lengths=[1, 1], response_lengths=[4, 4])
    plan = {"samples": [[0, 1]], "dp_rank": 0, "dp_size": 1, "max_tokens": 15, "cost": COST}
    assert plan_share(batch, **plan).micro_batches == [(0, 1)]
    assert plan_share(batch, **plan, sample_multiple=8).micro_batches == [(0,), (1,)]
    with pytest.raises(UserError, match="sample 0 takes 16 tokens"):
        plan_share(batch, **plan, sample_multiple=16)


def test_updates_split_whole_groups_in_order():
    assert split_updates([5, 5, 3, 3, 9, 9, 1, 1], 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert split_updates([0, 0, 1, 1, 2, 2], 2) == [[0, 1, 2, 3], [4, 5]]
