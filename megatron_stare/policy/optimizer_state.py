"""The distributed optimizer's state, tensor by tensor in the shapes of the model.

Each data-parallel rank holds the moments of some stretch of the parameters' elements. To be saved,
those of a parameter are put together on one of the ranks, in turn, which writes them. Loaded, every
rank cuts out its own stretch.

Megatron-Core has this as `fully_reshardable`, but puts whole buffers together, and loses the end of
those that hold parameters of a size that is no multiple of 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from megatron_stare.policy.staging import Staging

_PREFIX = "optimizer.state."
"""Of its keys in a checkpoint."""
Described = ShardedTensor | ShardedTensorFactory
"""A tensor of this rank and its place in the whole one."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What this rank holds of a parameter's state: flat float32 tensors by name, and where."""

    span: slice
    tensors: dict[str, Tensor]


OptimizerState = dict[tuple[int, int, str], Any]
"""By part of the optimizer, number of the parameter there, and name of the tensor."""


def describe_for_saving(
    optimizer: MegatronOptimizer, model: Mapping[Any, Any], staging: Staging
) -> tuple[OptimizerState, frozenset[str]]:
    """The state to be written by this rank, and the keys of what is on the host. Collective.

    What one rank has whole is the live tensor; what was put together was copied to the host.

    Args:
        model: the model's sharded state dict, whose tensors are the parameters themselves.
    """
    by_parameter = _by_parameter(model)
    described: OptimizerState = {}
    copied: set[str] = set()
    for part_number, part in enumerate(_parts(optimizer)):
        group = part.data_parallel_group
        stretches = _stretches(part)
        for number, parameter in enumerate(_parameters(part)):
            owner = number % group.size()
            like = by_parameter[parameter]
            # The last coordinate is that of data parallelism.
            replica = (*cast(tuple[int, ...], like.replica_id)[:-1], 0)
            for name, tensor in _put_together(parameter, stretches, group, owner):
                place = part_number, number, name
                if group.size() > 1:
                    tensor = staging.copy(place, tensor)
                    copied.add(_key(like, name))
                described[place] = _like(like, name, tensor, replica_id=replica)
    return described, frozenset(copied)


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
        for number, parameter in enumerate(_parameters(part)):
            if parameter in stretches:
                stretch = stretches[parameter]
                for name, tensor in stretch.tensors.items():
                    yield (part_number, number, name), parameter, stretch.span, tensor


def _parts(optimizer: MegatronOptimizer) -> list[DistributedOptimizer]:
    """One for the parameters that all data-parallel ranks hold, and one for experts."""
    parts = cast(ChainedOptimizer, optimizer).chained_optimizers
    return cast(list[DistributedOptimizer], parts)


def _by_parameter(model: Mapping[Any, Any]) -> dict[Any, Described]:
    entries = nested_values(dict(model))
    return {entry.data: entry for entry in entries if isinstance(entry, Described)}


def _parameters(part: DistributedOptimizer) -> Iterator[Tensor]:
    """All of them, in an order that is the same on every data-parallel rank."""
    for buffer in part.buffers:
        yield from buffer.param_index_map


def _stretches(part: DistributedOptimizer) -> dict[Tensor, _Stretch]:
    """Live tensors of this rank; moments are zeros where there was no update yet."""
    adam = part.optimizer
    if not adam.state:
        part.init_state_fn(adam, part.config)
        _set_num_updates(adam, 0)
    stretches = {}
    for buckets in part.gbuf_ranges:
        for bucket in (
            bucket for buckets_of_type in buckets.values() for bucket in buckets_of_type
        ):
            for parameter, ranges in bucket["param_map"].items():
                group, place = part.model_param_group_index_map[parameter]
                main = adam.param_groups[group]["params"][place]
                tensors = {name: adam.state[main][name] for name in ("exp_avg", "exp_avg_sq")}
                if main.dtype != parameter.dtype:
                    tensors["param"] = main
                span = slice(ranges["param"].start, ranges["param"].end)
                stretches[parameter] = _Stretch(span, tensors)
    return stretches


def _put_together(
    parameter: Tensor,
    stretches: Mapping[Tensor, _Stretch],
    group: dist.ProcessGroup,
    owner: int,
) -> Iterator[tuple[str, Tensor]]:
    """The whole state of a parameter; on ranks but `owner`, nothing."""
    if group.size() == 1:
        for name, tensor in stretches[parameter].tensors.items():
            yield name, tensor.view(parameter.shape)
        return
    for name in ["exp_avg", "exp_avg_sq"] + ["param"] * (parameter.dtype != torch.float32):
        tensor = torch.zeros(parameter.shape, device=parameter.device)
        if parameter in stretches:
            stretch = stretches[parameter]
            tensor.view(-1)[stretch.span] = stretch.tensors[name]
        dist.reduce(tensor, dst=dist.get_global_rank(group, owner), group=group)
        if group.rank() == owner:
            yield name, tensor


def _like(like: Described, name: str, tensor: Tensor, **changes: Any) -> Described:
    """A tensor of the optimizer, described as its parameter is."""
    if isinstance(like, ShardedTensor):
        changes["dtype"] = tensor.dtype
    return replace(like, key=_key(like, name), data=tensor, **changes)


def _key(like: Described, name: str) -> str:
    return f"{_PREFIX}{name}.{like.key}"


def _set_num_updates(adam: torch.optim.Optimizer, num_updates: int) -> None:
    """torch's Adam counts per parameter, in tensors that it changes; those of GPUs per group."""
    if isinstance(adam, torch.optim.AdamW):
        for state in adam.state.values():
            state["step"] = torch.tensor(float(num_updates))
    else:
        for group in adam.param_groups:
            group["step"] = num_updates
