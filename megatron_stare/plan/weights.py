"""Parameters of a pipeline stage, counted in the name tables; and the ranks that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.meta import HeldElements, held_elements
from megatron_stare.weights.rules import Entry

_PARAMETER_START, _BUCKET_END = 64, 128
"""Megatron starts parameters, and ends buckets, at multiples of so many elements."""
_EMBEDDING = "model.embed_tokens.weight"


def distinct_stages(parallel: ParallelConfig) -> list[int]:
    """Pipeline stages of which no two hold the same: the first, one of the middle, the last.

    Tensor, context and data-parallel ranks of a stage hold equally much.
    """
    last = parallel.pipeline - 1
    return sorted({0, min(1, last), last})


def built_elements(
    shape: ModelShape, model: ModelConfig, parallel: ParallelConfig, stage: int, world_size: int
) -> HeldElements:
    """What a rank of the stage holds, from the network as Megatron builds it."""
    rank = stage * (world_size // parallel.pipeline)
    return held_elements(shape, model, parallel, rank=rank, world_size=world_size)


def tabulated_elements(
    entries: Sequence[Entry], parallel: ParallelConfig, stage: int, world_size: int
) -> HeldElements:
    """The same by arithmetic, in a hundredth of the time; `optimized` is a rank's largest share.

    Gradients are summed over all ranks that hold the same: of experts those of the same experts.
    """
    data = world_size // (parallel.tensor * parallel.pipeline)
    expert_data = world_size // (parallel.expert * parallel.pipeline)
    parameters = buffer = optimized = 0
    is_shared = entries[0].shape.tied and parallel.pipeline > 1
    for chunk in range(parallel.virtual_pipeline):
        held = list(_held(entries, parallel, stage, chunk))
        for bucket, ranks in _buckets(held, data, expert_data, is_shared):
            sizes = [math.prod(entry.shard_shape(parallel.tensor)) for entry in bucket]
            starts = sum(-(-size // _PARAMETER_START) * _PARAMETER_START for size in sizes)
            whole = -(-starts // math.lcm(ranks, _BUCKET_END)) * math.lcm(ranks, _BUCKET_END)
            parameters += sum(sizes)
            buffer += whole
            optimized += min(whole // ranks, sum(sizes))
    return HeldElements(parameters, buffer, optimized)


def _held(
    entries: Sequence[Entry], parallel: ParallelConfig, stage: int, chunk: int
) -> Iterator[Entry]:
    """The parameters of one of a stage's model chunks."""
    shape = entries[0].shape
    num_runs = parallel.pipeline * parallel.virtual_pipeline
    run = chunk * parallel.pipeline + stage
    layers_in_run = shape.num_layers // num_runs
    for entry in entries:
        if entry.layer // layers_in_run != run:
            continue
        if entry.is_copy and num_runs == 1:
            continue  # It is the embedding itself.
        if entry.expert is None or entry.expert < shape.num_experts // parallel.expert:
            yield entry


def _buckets(
    held: Sequence[Entry], data: int, expert_data: int, is_shared: bool
) -> Iterator[tuple[list[Entry], int]]:
    """Parameters that are reduced together, and over how many ranks.

    An embedding that two stages share is by itself.
    """
    tied = [entry for entry in held if is_shared and _EMBEDDING in entry.hf]
    dense = [entry for entry in held if entry.expert is None and entry not in tied]
    experts = [entry for entry in held if entry.expert is not None]
    for bucket, ranks in ((tied, data), (dense, data), (experts, expert_data)):
        if bucket:
            yield bucket, ranks
