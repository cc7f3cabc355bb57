"""The policy model in tests: a ragged batch, its pass through Megatron, and transformers' answer.

batch = RaggedBatch.random(seed=0)
expected = transformers_pass(folder, batch)
ranks = run_world(4, policy_pass, folder, ParallelConfig(tensor=2, pipeline=2), batch)
result = merge_ranks(ranks, folder)        # TokenPass, as `expected`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
)
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor
from transformers import AutoModelForCausalLM

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.groups import ParallelGroups
from megatron_stare.policy.head import HeadInputs, logprob_entropy_head
from megatron_stare.policy.model import build_model, named_parameters
from megatron_stare.policy.packed import PackedMicroBatch, pack
from megatron_stare.policy.step import sum_gradients
from megatron_stare.weights.fused_experts import named_as_in_files
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import load_hf_weights
from megatron_stare.weights.names import model_entries

CPU = torch.device("cpu")
TEMPERATURE = 0.7


@dataclass(frozen=True)
class RaggedBatch:
    """Micro-batches of samples; the loss is the weighted sum of their response log-probs."""

    micro_batches: list[list[Tensor]]
    prompt_lengths: list[list[int]]
    weights: list[Tensor]

    @classmethod
    def random(cls, seed: int = 0, vocab_size: int = 256) -> RaggedBatch:
        """Lengths from 2 to 130 in three micro-batches, one with a single sample."""
        lengths = [[5, 130, 17, 64, 3, 2, 40], [9], [33, 31, 90]]
        prompts = [[2, 30, 1, 33, 2, 1, 39], [4], [16, 30, 1]]
        generator = torch.Generator().manual_seed(seed)
        tokens = [sum(n) - sum(p) for n, p in zip(lengths, prompts, strict=True)]
        return cls(
            [[torch.randint(vocab_size, (n,), generator=generator) for n in ns] for ns in lengths],
            prompts,
            [torch.randn(n, generator=generator) for n in tokens],
        )


@dataclass(frozen=True)
class TokenPass:
    """Log-probs and entropies of all response tokens, and gradients by Hugging Face name."""

    logprobs: Tensor
    entropies: Tensor
    gradients: dict[str, Tensor]


def transformers_pass(folder: Path, batch: RaggedBatch, dtype=torch.float32) -> TokenPass:
    """Each sample by itself through the Hugging Face model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    samples = [s for micro_batch in batch.micro_batches for s in micro_batch]
    prompts = [p for micro_batch in batch.prompt_lengths for p in micro_batch]
    passes = [_score(model, sample, p) for sample, p in zip(samples, prompts, strict=True)]
    logprobs, entropies = (torch.cat(parts) for parts in zip(*passes, strict=True))
    (logprobs * torch.cat(batch.weights)).sum().backward()
    gradients = named_as_in_files({name: p.grad for name, p in model.named_parameters()})
    return TokenPass(logprobs.detach(), entropies.detach(), gradients)


def _score(model: torch.nn.Module, sample: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
    logits = model(sample.unsqueeze(0)).logits[0, prompt - 1 : -1] / TEMPERATURE
    everything = logits.log_softmax(-1)
    logprobs = everything.gather(1, sample[prompt:].unsqueeze(1)).squeeze(1)
    return logprobs, -(everything.exp() * everything).sum(-1)


@dataclass(frozen=True)
class RankPass:
    """What one rank of `policy_pass` returns; log-probs and entropies on the last stage only."""

    tp_rank: int
    logprobs: Tensor | None
    entropies: Tensor | None
    gradients: dict[str, Tensor]
    """By Megatron name with global layer indices; this rank's shards."""


def policy_pass(
    folder: Path,
    parallel: ParallelConfig,
    groups: ParallelGroups,
    batch: RaggedBatch,
    recompute: str = "none",
    *,
    dtype: str = "float32",
    device: torch.device = CPU,
    forward_only: bool = False,
) -> RankPass:
    """Forward and backward of the Megatron model through Megatron's own schedule."""
    shape = read_hf_config(folder)
    settings = {"path": folder, "recompute": recompute, "dtype": dtype}
    config = ModelConfig.model_validate(settings)
    model = load_policy(shape, config, parallel, groups)
    idle = [[]] * (-len(batch.micro_batches) % groups.schedule_multiple)
    packed = [
        pack(
            samples,
            prompts,
            pad_to_multiple=groups.sequence_multiple,
            device=device,
            cp_rank=groups.cp.rank(),
            cp_size=groups.cp.size(),
        )
        for samples, prompts in zip(
            [*batch.micro_batches, *idle], [*batch.prompt_lengths, *idle], strict=True
        )
    ]
    weights = [weight.to(device) for weight in (*batch.weights, *(torch.empty(0) for _ in idle))]
    with torch.set_grad_enabled(not forward_only):
        outputs = forward_backward(model, packed, weights, groups, forward_only)
    parameters = named_parameters([chunk.module for chunk in model])
    gradients = {name: p.main_grad.clone() for name, p in parameters.items()}
    logprobs, entropies = map(torch.cat, zip(*outputs, strict=True)) if outputs else (None, None)
    return RankPass(groups.tp.rank(), logprobs, entropies, gradients)


def load_policy(
    shape: ModelShape,
    config: ModelConfig,
    parallel: ParallelConfig,
    groups: ParallelGroups,
    *,
    use_distributed_optimizer: bool = False,
) -> list[DistributedDataParallel]:
    """The model with the folder's weights, its chunks wrapped for data parallelism."""
    chunks = build_model(shape, config, parallel, groups, seed=1)
    load_hf_weights(
        named_parameters(chunks),
        config.path,
        shape,
        tp_rank=groups.tp.rank(),
        tp_size=groups.tp.size(),
    )
    # Gradients stay sums, as the trainer has them.
    chunks[0].config.finalize_model_grads_func = sum_gradients
    options = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=use_distributed_optimizer
    )
    return [
        DistributedDataParallel(chunk.config, options, chunk, pg_collection=groups.collection)
        for chunk in chunks
    ]


def have_extra_state(norm: type, setattr: Callable[..., None] = setattr) -> None:
    """From now on, norms of this class have an object beside their weight, as those of Transformer
    Engine do."""
    setattr(norm, "get_extra_state", lambda self: torch.empty(0, dtype=torch.uint8))
    setattr(norm, "set_extra_state", lambda self, state: None)


def forward_backward(
    model: list[DistributedDataParallel],
    packed: Sequence[PackedMicroBatch],
    weights: Sequence[Tensor],
    groups: ParallelGroups,
    forward_only: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Log-probs and entropies of each micro-batch; gradients are in `main_grad` afterwards."""

    def step(iterator: Iterator, model: torch.nn.Module) -> tuple[Any, Any]:
        micro_batch, weight = next(iterator)
        output = model(
            input_ids=micro_batch.input_ids,
            position_ids=micro_batch.position_ids,
            attention_mask=None,
            packed_seq_params=micro_batch.packed_seq_params,
            output_processor=logprob_entropy_head,
            output_processor_context=HeadInputs(micro_batch, TEMPERATURE, groups.cp),
        )
        return output, partial(_weighted_sum, weight)

    return get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=[iter(zip(packed, weights, strict=True)) for _ in model],
        model=[*model],
        num_microbatches=len(packed),
        seq_length=1,
        micro_batch_size=1,
        forward_only=forward_only,
    )


def _weighted_sum(weight: Tensor, output: TokenScores) -> tuple[Tensor, Tensor, tuple]:
    logprobs, entropies, *_ = output
    uncounted = torch.zeros((), dtype=torch.int)
    return (logprobs * weight).sum(), uncounted, (logprobs.detach(), entropies.detach())


def merge_ranks(ranks: Sequence[RankPass], folder: Path) -> TokenPass:
    """One pass from those of all ranks; ranks that hold the same values must agree on them."""
    scores = [(rank.logprobs, rank.entropies) for rank in ranks if rank.logprobs is not None]
    for logprobs, entropies in scores:
        torch.testing.assert_close(logprobs, scores[0][0], atol=0, rtol=0)
        torch.testing.assert_close(entropies, scores[0][1], atol=0, rtol=0)
    return TokenPass(*scores[0], merge_gradients(ranks, folder))


def merge_gradients(ranks: Sequence[RankPass], folder: Path) -> dict[str, Tensor]:
    """Full gradients by Hugging Face name, from the shards of all ranks."""
    merged: dict[str, Tensor] = {}
    for name, entry in model_entries(read_hf_config(folder)).items():
        shards = {r.tp_rank: r.gradients[name] for r in ranks if name in r.gradients}
        if shards:
            full = entry.merge([shards[tp_rank] for tp_rank in sorted(shards)])
            for hf_name, tensor in full.items():
                if entry.is_copy:
                    assert_close_relative({hf_name: tensor}, merged, 1e-6)
                merged[hf_name] = tensor
    return merged


def assert_close_relative(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """Every tensor agrees to `tolerance` of its own largest entry."""
    for name, tensor in actual.items():
        error, largest = (tensor - expected[name]).abs().max(), expected[name].abs().max()
        assert error <= tolerance * largest, f"{name}: relative error {error / largest:.1e}"
