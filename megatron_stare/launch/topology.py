"""Where this process stands in the world: the only reader of the environment.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK and the address of rank 0, and so does the script of
`megatron-stare slurm`, from Slurm's own variables; a plain start is a world of one. Slurm's are not
read for ranks: they are there in a shell of an allocation, too, where one process is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.errors import UserError
from megatron_stare.launch.gpus import count_gpus
from megatron_stare.system.timeouts import COLLECTIVE_TIMEOUT


@dataclass(frozen=True, slots=True)
class Topology:
    """This process among the trainers.

    device  the one it computes on
    job     Slurm's number of the job it runs in, if it runs in one
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    job: str | None = None


def read_topology(environ: Mapping[str, str] = os.environ) -> Topology:
    """The place that the launcher gave this process.

    Raises:
        UserError: the machine's GPUs do not answer.
    """
    rank = int(environ.get("RANK", 0))
    world_size = int(environ.get("WORLD_SIZE", 1))
    local_rank = int(environ.get("LOCAL_RANK", 0))
    on_gpu = count_gpus(environ) > 0
    return Topology(
        rank,
        world_size,
        local_rank,
        torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"),
        environ.get("SLURM_JOB_ID"),
    )


def check_world_size(world_size: int, parallel: ParallelConfig) -> None:
    """Check that the policy's replicas, and the groups that share experts, fill the world.

    Raises:
        UserError: they do not.
    """
    if world_size % parallel.replica:
        raise UserError(
            f"world size {world_size} does not fit parallel.tensor={parallel.tensor} x "
            f"parallel.context={parallel.context} x parallel.pipeline={parallel.pipeline}: "
            f"expected a multiple of {parallel.replica} processes"
        )
    stage = world_size // parallel.pipeline
    if stage % parallel.expert:
        raise UserError(
            f"parallel.expert={parallel.expert} does not divide the {stage} processes of a "
            "pipeline stage"
        )


def init_process_group(topology: Topology) -> None:
    """Start torch.distributed: NCCL with gloo for CPU tensors on GPUs, gloo without."""
    backend = "cpu:gloo,cuda:nccl" if topology.device.type == "cuda" else "gloo"
    if topology.device.type == "cuda":
        torch.cuda.set_device(topology.device)
    store = HashStore() if topology.world_size == 1 else None
    dist.init_process_group(
        backend,
        store=store,
        rank=topology.rank,
        world_size=topology.world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
