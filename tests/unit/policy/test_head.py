"""The head's weight gradient on its way to Megatron's `main_grad`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.model import build_model
from megatron_stare.policy.packed import pack
from tests.policies import CPU
from tests.unit.policy.shapes import TINY

BFLOAT16 = ModelConfig(path=Path("unused"), random_init=True, dtype="bfloat16")


def backward(model: torch.nn.Module, groups) -> None:
    packed = pack([torch.arange(40)], [3], pad_to_multiple=1, device=CPU)
    logprobs, *_ = model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        attention_mask=None,
        packed_seq_params=packed.packed_seq_params,
        output_processor=logprob_entropy_head,
        output_processor_context=HeadInputs(packed, 1.0, groups.cp),
    )
    logprobs.sum().backward()


@pytest.mark.parametrize("tied", [False, True])
def test_main_grad_takes_the_weight_gradient_in_float32(groups, tied):
    """A tied weight's is the sum of the head's and of the embedding's own."""
    shape = replace(TINY, tied=tied)
    (plain,) = build_model(shape, BFLOAT16, ParallelConfig(), groups, seed=1)
    (wrapped,) = build_model(shape, BFLOAT16, ParallelConfig(), groups, seed=1)
    ddp = DistributedDataParallel(
        wrapped.config,
        DistributedDataParallelConfig(grad_reduce_in_fp32=True),
        wrapped,
        pg_collection=groups.collection,
    )
    backward(plain, groups)
    for _ in range(2):  # two micro-batches
        backward(ddp, groups)
    expected = dict(plain.named_parameters())
    for name, parameter in wrapped.named_parameters():
        assert parameter.grad is None
        rounded = expected[name].grad.float()
        error = (parameter.main_grad / 2 - rounded).norm() / rounded.norm()
        assert error <= 2**-8, f"{name}: {error:.1e}"
    name = "embedding.word_embeddings.weight" if tied else "output_layer.weight"
    main_grad = dict(wrapped.named_parameters())[name].main_grad / 2
    assert (main_grad != main_grad.bfloat16()).float().mean() > 0.9
