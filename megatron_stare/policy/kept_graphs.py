"""Whether micro-batches can wait for their backward pass, each with all that autograd kept.

A method that has to see the batch's scores before its loss goes forward once, if the graphs of all
of the first update's micro-batches fit until then, and otherwise once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.activations import (
    LayerKind,
    RankSizes,
    backward_work_bytes,
    head_kept_bytes,
    head_work_bytes,
    layer_bytes,
)
from megatron_stare.policy.layer_spec import uses_transformer_engine
from megatron_stare.system.memory import available_bytes

USABLE_SHARE = {"cuda": 0.8, "cpu": 0.5}
"""Of the memory that is free: what is not counted, and other programs, have the rest."""


def num_kept(
    num_tokens: Sequence[int],
    setting: str,
    shape: ModelShape,
    model: ModelConfig,
    parallel: ParallelConfig,
    device: torch.device,
) -> int:
    """Of this rank's micro-batches of so many tokens, how many keep their graph: all or none.

    On all ranks alike, whose collectives are in step. Collective, if the setting is `auto`.
    """

    def fit_everywhere() -> bool:
        kind = "transformer_engine" if uses_transformer_engine(_dtype(model)) else "torch"
        fit = graphs_fit(num_tokens, _room(device), shape, model, parallel, kind)
        least = torch.tensor(fit, dtype=torch.int32, device=device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return bool(least)

    return len(num_tokens) if may_wait(setting, parallel, fit_everywhere) else 0


def may_wait(setting: str, parallel: ParallelConfig, fit: Callable[[], bool]) -> bool:
    """Whether `train.keep_graph` lets graphs wait in a layout; `fit` is asked where it is open."""
    if setting == "never" or parallel.pipeline > 1:  # Stages send each other what is between them.
        return False
    return setting == "always" or fit()


def graphs_fit(
    num_tokens: Sequence[int],
    room: float,
    shape: ModelShape,
    model: ModelConfig,
    parallel: ParallelConfig,
    kind: LayerKind,
) -> bool:
    """Whether graphs of micro-batches of so many tokens fit into `room` bytes of a rank.

    With what a backward pass allocates on top.
    """
    b = _dtype(model).itemsize
    sizes = [RankSizes.of(shape, parallel, num_tokens=n, element_bytes=b) for n in num_tokens]
    if not sizes:
        return True
    largest = max(sizes, key=lambda size: size.t)
    work = max(
        backward_work_bytes(shape, parallel, largest, recompute=model.recompute, kind=kind),
        head_work_bytes(shape, parallel, largest),
    )
    context, recompute = parallel.context, model.recompute
    kept = sum(
        shape.num_layers * layer_bytes(shape, n, recompute=recompute, kind=kind, context=context)
        + head_kept_bytes(n)
        for n in sizes
    )
    return kept + work <= room


def _dtype(model: ModelConfig) -> torch.dtype:
    return getattr(torch, model.dtype)


def _room(device: torch.device) -> float:
    """Bytes that this rank may fill."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return USABLE_SHARE["cuda"] * (free + unused)
    return USABLE_SHARE["cpu"] * available_bytes() / dist.get_world_size()
