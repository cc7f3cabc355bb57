"""A rank of a world that does not exist: the real network and its buffers, without memory.

The other ranks are stood in for by fake process groups, tensors by `meta` ones, which have a shape
and a type and no contents. So the model, its wrapper for data parallelism and their buffers are
Megatron's own, of any size, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.build import wrap_for_data_parallelism
from megatron_stare.policy.groups import ParallelGroups, build_groups, destroy_groups
from megatron_stare.policy.model import build_model, named_parameters
from megatron_stare.policy.platform import quietly


@dataclass(frozen=True, slots=True)
class HeldElements:
    """Numbers that a rank holds, by what they are for.

    parameters  of its layers, and of the embedding or the output layer
    buffer      the same in Megatron's buffers, which start every parameter at a round place; there
                is one of the parameters and one of their gradients
    optimized   the parameters whose optimizer state is here: data-parallel ranks share them
    """

    parameters: int
    buffer: int
    optimized: int


@contextmanager
def fake_world(parallel: ParallelConfig, *, rank: int, world_size: int) -> Iterator[ParallelGroups]:
    """The groups of one rank; collectives return at once, and bring nothing.

    torch.distributed must not be initialised.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield build_groups(parallel)
    finally:
        destroy_groups()
        dist.destroy_process_group()


def held_elements(
    shape: ModelShape, model: ModelConfig, parallel: ParallelConfig, *, rank: int, world_size: int
) -> HeldElements:
    """Build one rank of the policy on `meta`, and count.

    Raises:
        UserError: the layout cannot hold the network.
    """
    unloaded = model.model_copy(update={"random_init": False})
    with fake_world(parallel, rank=rank, world_size=world_size) as groups, _OnMeta():
        chunks = build_model(shape, unloaded, parallel, groups, seed=0)
        with quietly():
            wrapped: list[Any] = [wrap_for_data_parallelism(chunk, groups) for chunk in chunks]
    buffers = [
        buffer for chunk in wrapped for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)
    ]
    return HeldElements(
        parameters=sum(parameter.numel() for parameter in named_parameters(chunks).values()),
        buffer=sum(buffer.numel for buffer in buffers),
        optimized=sum(_optimized(buffer) for buffer in buffers),
    )


def _optimized(buffer: Any) -> int:
    """Elements of parameters in the first data-parallel rank's part of each bucket."""
    count = 0
    for start, end in buffer.bucket_indices:
        mine = start + (end - start) // buffer.data_parallel_world_size
        for first, last, _ in buffer.param_index_map.values():
            if start <= first < end:
                count += max(min(last, mine) - first, 0)
    return count


class _OnMeta(TorchFunctionMode):
    """Every new tensor is on `meta`, whatever device it is asked for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        with torch.device("meta"):
            return func(*args, **kwargs)
