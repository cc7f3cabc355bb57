"""Selection over gloo worlds: the same tokens however they are spread over ranks."""

import math
import random

import pytest
import torch
import torch.distributed as dist

from megatron_stare.ops.selection import global_kth_value, global_top_k
from tests.worlds import recorded_collectives, run_world


def tied_values(n: int) -> torch.Tensor:
    """Two digits after the point, so that most values are shared."""
    generator = torch.Generator().manual_seed(n)
    return (torch.randn(n, generator=generator) * 100).round() / 100


def random_shares(n: int, num_ranks: int, rng: random.Random) -> list[list[int]]:
    """Which tokens each rank holds, in which order; some ranks may hold none."""
    owners = rng.choices(
        range(num_ranks), weights=[rng.random() ** 4 for _ in range(num_ranks)], k=n
    )
    shares = [[token for token in range(n) if owners[token] == rank] for rank in range(num_ranks)]
    for share in shares:
        rng.shuffle(share)
    return shares


def selects_the_same_tokens_however_they_are_split(rank: int) -> None:
    rng = random.Random(0)
    for _ in range(25):
        n = rng.choice([1, 7, 300, 20_000])
        values = tied_values(n) if rng.random() < 0.8 else torch.full((n,), -1.5)
        ids = torch.tensor(rng.sample(range(rng.choice([n, 2**32, 2**40])), n))
        k = rng.choice([0, 1, n // 2, n])
        expected = set(ids[global_top_k(values, k, token_ids=ids)].tolist())
        mine = torch.tensor(random_shares(n, dist.get_world_size(), rng)[rank], dtype=torch.int64)
        mask = global_top_k(values[mine], k, token_ids=ids[mine], group=dist.group.WORLD)
        assert set(ids[mine][mask].tolist()) == expected & set(ids[mine].tolist())
        if k:
            kth = global_kth_value(values[mine], k, group=dist.group.WORLD)
            assert kth == global_kth_value(values, k)


def traffic(rank: int) -> dict[str, list[tuple[str, int]]]:
    size = dist.get_world_size()

    def collectives(values: torch.Tensor, share: float = 0.1) -> list[tuple[str, int]]:
        ids = torch.arange(len(values)) * size + rank
        k = int(share * len(values) * size)
        with recorded_collectives() as calls:
            global_top_k(values, k, token_ids=ids, group=dist.group.WORLD)
        return calls

    generator = torch.Generator().manual_seed(rank)
    return {
        "few": collectives(torch.rand(100, generator=generator)),
        "random": collectives(torch.rand(100_000, generator=generator)),
        "tied": collectives(torch.zeros(300)),
        "many tied": collectives(torch.zeros(1_000_000)),
        "most of many tied": collectives(torch.zeros(2_000_000), share=0.9),
    }


def errors_reach_every_rank(rank: int, size: int) -> list[str]:
    """Rank 1 holds the NaN; the others must hear of it, not wait."""
    values = torch.tensor([1.0, math.nan if rank == 1 else 2.0])
    ids = torch.tensor([10, 11]) + 100 * rank
    messages = []
    for attempt in (
        lambda: global_top_k(values, 1, token_ids=ids, group=dist.group.WORLD),
        lambda: global_top_k(ids.float(), 2 * size + 1, token_ids=ids, group=dist.group.WORLD),
    ):
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            attempt()
        messages.append(str(raised.value))
    return messages


@pytest.mark.parametrize("size", [2, 4])
def test_the_split_over_ranks_does_not_matter(size):
    run_world(size, selects_the_same_tokens_however_they_are_split)


def test_traffic_is_at_most_four_small_collectives():
    size, row = 2, 8 * 1024
    for seen in run_world(size, traffic):
        assert {name: len(calls) for name, calls in seen.items()} == {
            "few": 2,
            "random": 3,
            "tied": 2,
            "many tied": 3,
            "most of many tied": 4,
        }
        for calls in seen.values():
            assert calls[0] == ("all_reduce", row)
            assert set(calls[1:]) == {("all_gather_single", size * row)}


def test_an_error_on_one_rank_is_an_error_on_all():
    for messages in run_world(3, errors_reach_every_rank, 3):
        assert "token 111 has the value NaN" in messages[0]
        assert "k = 7 is out of range: there are 6 values" in messages[1]
