"""What the real policy keeps for its backward pass: the bytes that autograd saves."""

from __future__ import annotations

from collections.abc import Sequence

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
import torch
from torch import Tensor

from megatron_stare.config import ModelConfig, ParallelConfig
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.meta import fake_world
from megatron_stare.policy.model import build_model
from megatron_stare.policy.packed import pack
from megatron_stare.policy.platform import quietly
from megatron_stare.weights.hf_config import ModelShape

CPU = torch.device("cpu")


def saved_bytes(
    shape: ModelShape,
    model: ModelConfig,
    parallel: ParallelConfig,
    lengths: Sequence[int],
    *,
    stage: int = 0,
) -> int:
    """Bytes of the storages that one forward pass of a stage saves, parameters left out.

    The ranks of the layout are fake: what they would send is not there, but has room.
    """
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
            tokens = packed.input_ids.numel()
            tokens //= parallel.tensor if parallel.sequence else 1
            dtype = getattr(torch, model.dtype)
            hidden = torch.zeros(tokens, 1, shape.hidden_size, dtype=dtype, requires_grad=True)
            chunk.set_input_tensor(hidden)
        saved: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage
            return tensor

        with quietly(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = chunk(
                input_ids=packed.input_ids,
                position_ids=packed.position_ids,
                attention_mask=None,
                packed_seq_params=packed.packed_seq_params,
                output_processor=logprob_entropy_head,
                output_processor_context=HeadInputs(packed, 1.0, groups.cp),
            )
        held = {parameter.untyped_storage().data_ptr() for parameter in chunk.parameters()}
        del output
    return sum(storage.nbytes() for place, storage in saved.items() if place not in held)
