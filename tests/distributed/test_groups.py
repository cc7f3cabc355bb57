"""Which ranks work together."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.groups import build_groups, destroy_groups
from megatron_stare.system.timeouts import COLLECTIVE_TIMEOUT
from tests.worlds import run_world


def members(rank: int, parallel: ParallelConfig) -> dict[str, object]:
    build_groups(ParallelConfig())
    destroy_groups()
    groups = build_groups(parallel)
    ranks = {
        name: dist.get_process_group_ranks(group)
        for name, group in {
            "tp": groups.tp,
            "cp": groups.cp,
            "pp": groups.pp,
            "dp": groups.dp,
            "dp_cp": groups.dp_cp,
            "ep": groups.ep,
            "expt_dp": groups.expt_dp,
        }.items()
    }
    return ranks | {
        "first": groups.is_first_stage,
        "last": groups.is_last_stage,
        "multiple": groups.sequence_multiple,
    }


def test_tensor_ranks_are_neighbours_and_stages_are_far_apart():
    ranks = run_world(4, members, ParallelConfig(tensor=2, pipeline=2, sequence=True))
    assert [rank["tp"] for rank in ranks] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [rank["pp"] for rank in ranks] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [rank["dp"] for rank in ranks] == [[0], [1], [2], [3]]
    assert [rank["first"] for rank in ranks] == [True, True, False, False]
    assert [rank["last"] for rank in ranks] == [False, False, True, True]
    assert {rank["multiple"] for rank in ranks} == {2}


def test_replicas_share_what_is_not_split():
    ranks = run_world(4, members, ParallelConfig(tensor=2))
    assert [rank["dp"] for rank in ranks] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert {rank["multiple"] for rank in ranks} == {1}


def test_ranks_that_share_samples_stand_inside_a_replica():
    ranks = run_world(8, members, ParallelConfig(tensor=2, context=2, sequence=True))
    assert [rank["cp"] for rank in ranks[:4]] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [rank["dp"] for rank in ranks[:4]] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [rank["dp_cp"] for rank in ranks[:2]] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert {rank["multiple"] for rank in ranks} == {4}


def test_experts_are_shared_by_neighbours_in_a_stage():
    parallel = ParallelConfig(tensor=2, pipeline=2, sequence=True, expert=2)
    ranks = run_world(8, members, parallel)
    assert [rank["ep"] for rank in ranks[::2]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [rank["expt_dp"] for rank in ranks[:4]] == [[0, 2], [1, 3], [0, 2], [1, 3]]


def timeouts(rank: int, parallel: ParallelConfig) -> set[timedelta]:
    groups = vars(build_groups(parallel).collection).values()
    backends = [g._get_backend(torch.device("cpu")) for g in groups if isinstance(g, ProcessGroup)]
    assert len(backends) > 5
    return {backend.options._timeout for backend in backends}


def test_every_group_waits_as_long_as_the_world_does():
    # Where rank 0 writes a model or sends it to servers, others wait in their tensor group.
    assert run_world(2, timeouts, ParallelConfig(tensor=2)) == [{COLLECTIVE_TIMEOUT}] * 2
