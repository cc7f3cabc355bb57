"""Selection on one process, against a brute-force sort."""

import math
import random

import pytest
import torch

from megatron_stare.ops.selection import (
    global_kth_value,
    global_top_k,
    global_top_k_with_threshold,
)

INF, NAN = math.inf, math.nan


def top_ids(values: list[float], k: int, ids: list[int] | None = None) -> list[int]:
    """Ids selected from values given as a list; ids are positions unless given."""
    token_ids = torch.tensor(range(len(values)) if ids is None else ids, dtype=torch.int64)
    mask = global_top_k(torch.tensor(values), k, token_ids=token_ids)
    return sorted(token_ids[mask].tolist())


def sorted_ids(values: list[float], k: int, ids: list[int]) -> list[int]:
    ranked = sorted(zip(values, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))
    return sorted(token_id for _, token_id in ranked[:k])


def random_values(rng: random.Random, n: int) -> list[float]:
    """A mix that ties often: few levels, signed zeros, infinities, neighbours in float32."""
    pools = [
        [0.0, -0.0],
        [1.0, 1.0 + 2**-23, 1.0 - 2**-24],
        [INF, -INF, 3.4e38, -3.4e38, 0.0],
        [1e-45, -1e-45, 0.0],
        [rng.gauss(0, 1) for _ in range(n)],
    ]
    pool = [value for group in rng.sample(pools, rng.randint(1, 3)) for value in group]
    return torch.tensor([rng.choice(pool) for _ in range(n)]).tolist()


@pytest.mark.parametrize("seed", range(60))
def test_equals_a_sort_by_value_then_id(seed):
    rng = random.Random(seed)
    n = rng.randint(1, 80)
    values = random_values(rng, n)
    ids = rng.sample(range(rng.choice([n, 2**20, 2**32, 2**41])), n) if n > 1 else [5]
    k = rng.randint(1, n)
    assert top_ids(values, k, ids) == sorted_ids(values, k, ids)
    kth = sorted(values, reverse=True)[k - 1]
    assert global_kth_value(torch.tensor(values), k) == kth


@pytest.mark.parametrize(
    ("values", "k", "expected"),
    [
        ([3.0, 1.0, 2.0], 0, []),
        ([3.0, 1.0, 2.0], 2, [0, 2]),
        ([3.0, 1.0, 2.0], 3, [0, 1, 2]),
        ([7.0] * 5, 3, [0, 1, 2]),
        ([-0.0, 0.0, -0.0, 0.0], 2, [0, 1]),
        ([-INF, INF, 0.0, INF], 3, [1, 2, 3]),
        ([-1.0, -2.0, -3.0], 1, [0]),
        ([], 0, []),
    ],
)
def test_small_cases(values, k, expected):
    assert top_ids(values, k) == expected


def test_ids_break_ties_by_all_their_bits():
    ids = [2**33 + 1, 2**33, 2**41 - 1, 2**31]
    assert top_ids([1.0] * 4, 1, ids) == [2**31]
    assert top_ids([1.0] * 4, 2, ids) == [2**31, 2**33]
    assert top_ids([1.0] * 4, 3, ids) == [2**31, 2**33, 2**33 + 1]


@pytest.mark.parametrize("k", [1, 999, 150_000, 299_999, 300_000])
@pytest.mark.parametrize(
    "values",
    [
        -torch.rand(300_000, generator=torch.Generator().manual_seed(0)).log(),
        (torch.arange(300_000) % 3 == 0).float(),
        torch.full((300_000,), -INF),
        1.0 + torch.arange(300_000).remainder(5) * 2**-23,
        torch.rand(300_000, generator=torch.Generator().manual_seed(0)) - 1,
    ],
    ids=["exponential", "saturated", "all equal", "neighbours in float32", "negative"],
)
def test_more_candidates_than_a_rank_can_show_at_once(values, k):
    token_ids = torch.randperm(300_000, generator=torch.Generator().manual_seed(1)) * 3
    by_id = token_ids.argsort()
    ranked = by_id[values[by_id].argsort(descending=True, stable=True)]
    top = global_top_k_with_threshold(values, k, token_ids=token_ids)
    assert torch.equal(top.mask.nonzero().squeeze(1), ranked[:k].sort().values)
    assert top.threshold == values[ranked[k - 1]] == global_kth_value(values, k)


def test_ids_that_are_not_unique_are_refused_where_they_leave_no_order():
    values, token_ids = torch.zeros(10_000), torch.arange(10_000) // 5_000
    with pytest.raises(ValueError, match="token ids are not unique"):
        global_top_k(values, 5_000, token_ids=token_ids)


def test_the_threshold_is_the_kth_value():
    values = torch.tensor([0.5, -2.0, 3.0, 0.5])
    ids = torch.arange(4)
    selected = [global_top_k_with_threshold(values, k, token_ids=ids) for k in range(5)]
    assert [top.threshold for top in selected[1:]] == [3.0, 0.5, 0.5, -2.0]
    assert math.isnan(selected[0].threshold)


def test_half_precision_values_rank_like_their_float32():
    values = torch.tensor([0.1, 0.3, 0.2], dtype=torch.bfloat16)
    assert global_top_k(values, 1, token_ids=torch.arange(3)).tolist() == [False, True, False]
    assert global_kth_value(values, 3) == values[0].item()


def test_values_with_a_gradient_are_ranked_without_it():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not global_top_k(values, 1, token_ids=torch.arange(2)).requires_grad


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range_is_an_error_that_names_both_numbers(k):
    with pytest.raises(ValueError, match=f"k = {k} is out of range: there are 3 values"):
        top_ids([1.0, 2.0, 3.0], k)


def test_there_is_no_zeroth_value():
    with pytest.raises(ValueError, match="k = 0"):
        global_kth_value(torch.ones(3), 0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("k", [1, 3])
def test_nan_is_an_error_that_names_the_first_token(sign, k):
    values = [1.0, math.copysign(NAN, sign), NAN, INF]
    with pytest.raises(ValueError, match="token 30 has the value NaN"):
        top_ids(values, k, ids=[10, 50, 30, 20])
    with pytest.raises(ValueError, match="2 of them are NaN"):
        global_kth_value(torch.tensor(values), k)


def test_every_pattern_of_nan_is_one():
    patterns = [0x7F800001, 0x7FC00000, 0x7FFFFFFF, -0x007FFFFF, -0x00400000, -1]
    for pattern in patterns:
        nan = torch.tensor(pattern, dtype=torch.int32).view(torch.float32)
        with pytest.raises(ValueError, match="token 1 has the value NaN"):
            global_top_k(torch.stack([torch.zeros(()), nan]), 1, token_ids=torch.arange(2))
