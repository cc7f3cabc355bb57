"""A gloo world ends with the first thing that goes wrong, and says what it was."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.worlds import recorded_collectives, run_world


def sum_of_ranks(rank: int, offset: int) -> int:
    total = torch.tensor(rank + offset)
    dist.all_reduce(total)
    return int(total)


def many_tensors(rank: int) -> list[torch.Tensor]:
    return [torch.full((10,), rank + i) for i in range(300)]


def one_rank_raises(rank: int) -> None:
    if rank == 1:
        raise KeyError("the cause")
    dist.barrier()


def one_rank_dies(rank: int) -> None:
    if rank == 2:
        os._exit(3)
    dist.barrier()


def one_rank_hangs(rank: int) -> None:
    while rank == 1:
        time.sleep(1)


def records(rank: int) -> list[tuple[str, int]]:
    ones = torch.ones(3)
    with recorded_collectives() as calls:
        dist.all_reduce(ones)
        dist.all_gather_single(torch.empty(6), ones)
        dist.all_gather([torch.empty(3), torch.empty(3)], ones)
    return calls


def test_results_come_by_rank():
    assert run_world(3, sum_of_ranks, 10) == [33, 33, 33]


def test_tensors_outlive_the_rank_that_made_them():
    for rank, tensors in enumerate(run_world(2, many_tensors)):
        assert [tensor[9].item() for tensor in tensors] == [rank + i for i in range(300)]


def test_the_rank_that_raised_is_reported_not_those_it_broke():
    with pytest.raises(AssertionError, match=r"(?s)^rank 1 failed first .*KeyError: 'the cause'"):
        run_world(3, one_rank_raises)


def test_a_dead_rank_is_reported_at_once():
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"rank 2 failed first .*\nit died without a result"):
        run_world(3, one_rank_dies)
    assert time.monotonic() - start < 30


def test_a_hung_rank_ends_at_the_deadline():
    with pytest.raises(TimeoutError, match=r"ranks \[1\] gave no result within 6 s"):
        run_world(2, one_rank_hangs, timeout_s=6)


def test_collectives_are_recorded_with_their_bytes():
    assert (
        run_world(2, records)
        == [[("all_reduce", 12), ("all_gather_single", 24), ("all_gather", 24)]] * 2
    )
