"""The distributed optimizer's state, tensor by tensor in the shapes of the model.

Each data-parallel rank holds the moments of some stretch of the parameters' elements. Most
parameters lie in the stretch of one rank, which writes their moments as they are. Those that the
end of a stretch cuts are put together on the first of their ranks. Loaded, every rank cuts out its
own stretch.

Megatron-Core has this as `fully_reshardable`, but puts whole buffers together, and loses the end of
those that hold parameters of a size that is no multiple of 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

_PREFIX = "optimizer.state."
"""Of its keys in a checkpoint."""
Described = ShardedTensor | ShardedTensorFactory
"""A tensor of this rank and its place in the whole one."""
OptimizerState = dict[tuple[int, int, str], Any]
"""By part of the optimizer, number of the parameter there, and name of the tensor."""


def describe_for_saving(optimizer: MegatronOptimizer, model: Mapping[Any, Any]) -> OptimizerState:
    """The state to be written by this rank: live tensors, and what was put together. Collective.

    Args:
        model: the model's sharded state dict, whose tensors are the parameters themselves.
    """
    by_parameter = _by_parameter(model)
    described: OptimizerState = {}
    for part_number, part in enumerate(_parts(optimizer)):
        spans, stretches = _spans(part), _stretches(part)
        put_together = _put_together(part, spans, stretches)
        for number, parameter in enumerate(spans):
            if part.data_parallel_group.rank() != next(iter(spans[parameter])):
                continue
            like = by_parameter[parameter]
            # The last coordinate is that of data parallelism.
            replica = (*cast(tuple[int, ...], like.replica_id)[:-1], 0)
            for name, state in put_together.get(parameter, stretches[parameter]).items():
                described[part_number, number, name] = _like(
                    like, name, state.view(parameter.shape), replica_id=replica
                )
    return described


def describe_for_loading(optimizer: MegatronOptimizer, model: Mapping[Any, Any]) -> OptimizerState:
    """Zeros in place of the state of every parameter that this rank holds a stretch of.

    Where a padded vocabulary has more rows here than where it was saved, they stay zeros.
    """
    by_parameter = _by_parameter(model)
    return {
        place: _like(by_parameter[parameter], place[-1], torch.zeros(parameter.shape))
        for place, parameter, *_ in _live_tensors(optimizer)
    }


@torch.no_grad()
def load_state(optimizer: MegatronOptimizer, loaded: OptimizerState, *, num_updates: int) -> None:
    """Copy what was loaded into the optimizer."""
    for place, _, span, tensor in _live_tensors(optimizer):
        tensor.copy_(loaded[place].flatten()[span])
    for part in _parts(optimizer):
        _set_num_updates(part.optimizer, num_updates)


def _live_tensors(
    optimizer: MegatronOptimizer,
) -> Iterator[tuple[tuple[int, int, str], Tensor, slice, Tensor]]:
    """(place, parameter, stretch of it that this rank holds, state of that stretch)."""
    for part_number, part in enumerate(_parts(optimizer)):
        stretches = _stretches(part)
        rank = part.data_parallel_group.rank()
        for number, (parameter, spans) in enumerate(_spans(part).items()):
            if rank in spans:
                for name, tensor in stretches[parameter].items():
                    yield (part_number, number, name), parameter, spans[rank], tensor


def _parts(optimizer: MegatronOptimizer) -> list[DistributedOptimizer]:
    """One for the parameters that all data-parallel ranks hold, and one for experts."""
    parts = cast(ChainedOptimizer, optimizer).chained_optimizers
    return cast(list[DistributedOptimizer], parts)


def _by_parameter(model: Mapping[Any, Any]) -> dict[Any, Described]:
    entries = nested_values(dict(model))
    return {entry.data: entry for entry in entries if isinstance(entry, Described)}


def _spans(part: DistributedOptimizer) -> dict[Tensor, dict[int, slice]]:
    """Elements of each parameter by the rank that holds their state; the same on every rank."""
    spans = {}
    for buffer in part.buffers:
        for parameter, (start, end, bucket_number) in buffer.param_index_map.items():
            bucket = buffer.buckets[bucket_number]
            size = bucket.grad_data.numel() // part.data_parallel_group.size()
            first, last = start - bucket.offset, end - bucket.offset - 1
            spans[parameter] = {
                rank: slice(
                    max(rank * size, first) - first, min((rank + 1) * size, last + 1) - first
                )
                for rank in range(first // size, last // size + 1)
            }
    return spans


def _stretches(part: DistributedOptimizer) -> dict[Tensor, dict[str, Tensor]]:
    """Live tensors of this rank, flat, by name; moments are zeros where there was no update yet."""
    adam = part.optimizer
    if not adam.state:
        part.init_state_fn(adam, part.config)
        _set_num_updates(adam, 0)
    stretches = {}
    for parameter, (group, place) in part.model_param_group_index_map.items():
        main = adam.param_groups[group]["params"][place]
        stretches[parameter] = {name: adam.state[main][name] for name in ("exp_avg", "exp_avg_sq")}
        if main.dtype != parameter.dtype:
            stretches[parameter]["param"] = main
    return stretches


def _put_together(
    part: DistributedOptimizer,
    spans: Mapping[Tensor, Mapping[int, slice]],
    stretches: Mapping[Tensor, Mapping[str, Tensor]],
) -> dict[Tensor, dict[str, Tensor]]:
    """The whole state, flat, of parameters whose first rank of several this one is."""
    group = part.data_parallel_group
    whole: dict[Tensor, dict[str, Tensor]] = {}
    transfers = []
    for parameter, (owner, *others) in spans.items():
        if not others or group.rank() not in (owner, *others):
            continue
        for name, stretch in stretches[parameter].items():
            if group.rank() != owner:
                transfers.append(dist.P2POp(dist.isend, stretch, group=group, group_peer=owner))
                continue
            flat = torch.empty(parameter.numel(), device=parameter.device)
            flat[spans[parameter][owner]] = stretch
            whole.setdefault(parameter, {})[name] = flat
            transfers += [
                dist.P2POp(dist.irecv, flat[spans[parameter][rank]], group=group, group_peer=rank)
                for rank in others
            ]
    for work in dist.batch_isend_irecv(transfers) if transfers else ():
        work.wait()
    return whole


def _like(like: Described, name: str, tensor: Tensor, **changes: Any) -> Described:
    """A tensor of the optimizer, described as its parameter is."""
    if isinstance(like, ShardedTensor):
        changes["dtype"] = tensor.dtype
    return replace(like, key=f"{_PREFIX}{name}.{like.key}", data=tensor, **changes)


def _set_num_updates(adam: torch.optim.Optimizer, num_updates: int) -> None:
    """torch's Adam counts per parameter, in tensors that it changes; those of GPUs per group."""
    if isinstance(adam, torch.optim.AdamW):
        for state in adam.state.values():
            state["step"] = torch.tensor(float(num_updates))
    else:
        for group in adam.param_groups:
            group["step"] = num_updates
