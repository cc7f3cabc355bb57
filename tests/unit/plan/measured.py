"""What the real policy keeps for its backward pass, and what it sends, in bytes.

The ranks of a layout are fake: what they would send is not there, but has room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.groups import ParallelGroups
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.meta import fake_world
from megatron_stare.policy.model import build_model
from megatron_stare.policy.packed import PackedMicroBatch, pack
from megatron_stare.policy.platform import quietly

CPU = torch.device("cpu")


def saved_bytes(
    shape: ModelShape,
    model: ModelConfig,
    parallel: ParallelConfig,
    lengths: Sequence[int],
    *,
    stage: int = 0,
) -> int:
    """Bytes of the storages that one forward pass of a stage saves, parameters left out."""
    with _one_rank(shape, model, parallel, lengths, stage) as forward:
        saved: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = forward()
        held = {parameter.untyped_storage().data_ptr() for parameter in forward.parameters()}
        del output
    return sum(storage.nbytes() for place, storage in saved.items() if place not in held)


def sent_bytes(
    shape: ModelShape, model: ModelConfig, parallel: ParallelConfig, lengths: Sequence[int]
) -> tuple[float, float]:
    """Bytes that a rank of a one-stage layout sends in a forward and in a backward pass."""
    with _one_rank(shape, model, parallel, lengths, 0) as forward:
        with _Sent() as ahead:
            logprobs, *_ = forward()
        with _Sent() as back:
            logprobs.sum().backward()
    return ahead.num_bytes, back.num_bytes


class _Sent(TorchDispatchMode):
    """Adds up collectives: a gather or a scatter sends all but its own part of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if name.startswith("c10d."):
            sizes = [x.nbytes for x in tree_leaves(args) if isinstance(x, Tensor)]
            if "allreduce" in name:
                self.num_bytes += sum(sizes)  # Of two ranks: twice a half.
            else:
                self.num_bytes += min(sizes)
        return func(*args, **(kwargs or {}))


class _Forward:
    """A stage and a micro-batch; calling it runs one through the other."""

    def __init__(self, chunk: Any, packed: PackedMicroBatch, groups: ParallelGroups) -> None:
        self._chunk, self._packed, self._groups = chunk, packed, groups
        self.parameters = chunk.parameters

    def __call__(self) -> Any:
        packed = self._packed
        with quietly():
            return self._chunk(
                input_ids=packed.input_ids,
                position_ids=packed.position_ids,
                attention_mask=None,
                packed_seq_params=packed.packed_seq_params,
                output_processor=logprob_entropy_head,
                output_processor_context=HeadInputs(packed, 1.0, self._groups.cp),
            )


@contextmanager
def _one_rank(
    shape: ModelShape,
    model: ModelConfig,
    parallel: ParallelConfig,
    lengths: Sequence[int],
    stage: int,
) -> Iterator[_Forward]:
    world_size = parallel.replica
    rank = stage * (world_size // parallel.pipeline)
    with fake_world(parallel, rank=rank, world_size=world_size) as groups:
        (chunk,) = build_model(shape, model, parallel, groups, seed=1)
        packed = pack(
            [torch.randint(shape.vocab_size, (length,)) for length in lengths],
            [1] * len(lengths),
            pad_to_multiple=groups.sequence_multiple,
            device=CPU,
            cp_rank=groups.cp.rank(),
            cp_size=groups.cp.size(),
        )
        if not groups.is_first_stage:
            tokens = packed.input_ids.numel() // (parallel.tensor if parallel.sequence else 1)
            dtype = getattr(torch, model.dtype)
            hidden = torch.zeros(tokens, 1, shape.hidden_size, dtype=dtype, requires_grad=True)
            cast(Any, chunk).set_input_tensor(hidden)
        yield _Forward(chunk, packed, groups)
