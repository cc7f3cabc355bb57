"""The plan: every sample once, budgets kept, ranks in step."""

import random

import pytest

from megatron_stare.data.packing import plan_micro_batches, split_updates
from megatron_stare.errors import UserError


@pytest.mark.parametrize("seed", range(20))
def test_every_sample_is_in_exactly_one_micro_batch_within_the_budget(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 100) for _ in range(rng.randint(1, 60))]
    samples = rng.sample(range(len(lengths)), k=rng.randint(1, len(lengths)))
    ranks = plan_micro_batches(samples, lengths, dp_size=rng.randint(1, 5), max_tokens=128)
    placed = [s for micro_batches in ranks for micro_batch in micro_batches for s in micro_batch]
    assert sorted(placed) == sorted(samples)
    assert all(sum(lengths[s] for s in mb) <= 128 for mbs in ranks for mb in mbs)
    assert len({len(micro_batches) for micro_batches in ranks}) == 1


def test_ranks_carry_nearly_equal_tokens():
    rng = random.Random(0)
    lengths = [rng.randint(1, 1000) for _ in range(256)]
    ranks = plan_micro_batches(range(256), lengths, dp_size=4, max_tokens=4096)
    loads = [sum(lengths[s] for mb in mbs for s in mb) for mbs in ranks]
    assert max(loads) / min(loads) < 1.01


def test_a_rank_without_samples_gets_empty_micro_batches():
    assert plan_micro_batches([0, 1], [10, 8], dp_size=3, max_tokens=10) == [[(0,)], [(1,)], [()]]


def test_a_sample_over_the_budget_is_refused_by_name():
    with pytest.raises(UserError, match=r"sample 1 has 11 tokens.*max_tokens_per_micro_batch=10"):
        plan_micro_batches([0, 1], [10, 11], dp_size=1, max_tokens=10)


def test_updates_split_whole_groups_in_order():
    assert split_updates([5, 5, 3, 3, 9, 9, 1, 1], 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert split_updates([0, 0, 1, 1, 2, 2], 2) == [[0, 1, 2, 3], [4, 5]]
