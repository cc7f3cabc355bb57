"""The contract of every link of the table over ranks: the same bits however samples are spread."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from megatron_stare.algorithms.chain import Chain
from megatron_stare.algorithms.table import LINKS
from tests.contract import (
    OF_REWARDS,
    Decided,
    chain_with,
    decide,
    in_batch_order,
    random_batch,
)
from tests.worlds import run_world

NUM_STEPS = 3


def shares(world: int, seed: int) -> list[list[int]]:
    """Samples of each rank in any order; the last of several ranks has none."""
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed)).tolist()
    holders = max(1, world - 1)
    return [order[rank::holders] if rank < holders else [] for rank in range(world)]


def decide_all(rank: int, *, hides_the_group: bool = False) -> dict[str, list[Decided]]:
    """Some steps of every link's chain on this rank."""
    group = None if hides_the_group else dist.group.WORLD
    decided: dict[str, list[Decided]] = {}
    for name in LINKS:
        chain = Chain(chain_with(name))
        decided[name] = [
            decide(chain, random_batch(n), n, shares(dist.get_world_size(), n)[rank], group)
            for n in range(1, NUM_STEPS + 1)
        ]
    return decided


def hide_the_group(rank: int) -> dict[str, list[Decided]]:
    """The fault: what is meant of the batch is taken of a rank's own part."""
    return decide_all(rank, hides_the_group=True)


@pytest.fixture(scope="module")
def alone():
    (decided,) = run_world(1, decide_all)
    return decided


def assert_same(ranks: list[Decided], expected: Decided) -> None:
    found, wanted = in_batch_order(ranks), in_batch_order([expected])
    for name, values in wanted.items():
        assert torch.equal(found[name], values), name
    for rank in ranks:
        assert rank.states == expected.states
        assert rank.report == pytest.approx(expected.report, rel=0, abs=0, nan_ok=True)


def assert_same_steps(steps: list[tuple[list[Decided], Decided]]) -> None:
    for found, expected in steps:
        assert_same(found, expected)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_spread_gives_the_same_bits(alone, world):
    ranks = run_world(world, decide_all)
    for name in LINKS:
        for number in range(NUM_STEPS):
            assert_same([rank[name][number] for rank in ranks], alone[name][number])


def test_a_statistic_per_rank_is_found(alone):
    """In every link that looks at the batch; and what a link of samples decides is the same."""
    ranks = run_world(3, hide_the_group)
    for name in LINKS:
        steps = [([rank[name][n] for rank in ranks], alone[name][n]) for n in range(NUM_STEPS)]
        if LINKS[name].scope == "batch" and name not in OF_REWARDS:
            with pytest.raises(AssertionError):
                assert_same_steps(steps)
        else:
            for found, expected in steps:
                in_order, wanted = in_batch_order(found), in_batch_order([expected])
                assert all(map(torch.equal, in_order.values(), wanted.values())), name
