"""Parameters, gradients and optimizer state: planned, built on meta, and really allocated."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
import pytest
import torch
from megatron.core.distributed import DistributedDataParallel

from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.plan.weights import (
    built_elements,
    distinct_stages,
    tabulated_elements,
)
from megatron_stare.policy.build import build_policy
from megatron_stare.policy.meta import HeldElements, fake_world
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import entries_of, num_parameters
from tests.unit.weights.published import QWEN25_32B, write

TINY = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 259,
    "max_position_embeddings": 4096,
}
NETWORKS = {
    "qwen3": {"model_type": "qwen3"},
    "qwen2 tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
    },
}


def shape_of(folder: Path, network: str) -> ModelShape:
    (folder / "config.json").write_text(json.dumps(TINY | NETWORKS[network]))
    return read_hf_config(folder)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("layout", "world_size"),
    [
        ({}, 3),
        ({"tensor": 2, "sequence": True, "pipeline": 4}, 16),
        ({"tensor": 8, "sequence": True, "pipeline": 2}, 16),
        ({"pipeline": 2, "virtual_pipeline": 2, "context": 2}, 8),
    ],
)
def test_the_tables_count_what_megatron_builds(network, layout, world_size, tmp_path):
    """Every distinct rank; the optimizer's share to the padding between parameters."""
    shape, parallel = shape_of(tmp_path, network), ParallelConfig(**layout)
    model = ModelConfig(path=tmp_path, dtype="bfloat16")
    for stage in distinct_stages(parallel):
        built = built_elements(shape, model, parallel, stage, world_size)
        table = tabulated_elements(entries_of(shape), parallel, stage, world_size)
        assert (table.parameters, table.buffer) == (built.parameters, built.buffer)
        assert (
            built.optimized
            <= table.optimized
            <= built.optimized + built.buffer - (built.parameters)
        )


def test_experts_are_shared_over_their_ranks(tmp_path):
    shape = shape_of(tmp_path, "qwen3_moe")
    parallel = ParallelConfig(tensor=2, sequence=True, expert=4)
    built = built_elements(shape, ModelConfig(path=tmp_path), parallel, 0, 8)
    table = tabulated_elements(entries_of(shape), parallel, 0, 8)
    assert (table.parameters, table.buffer) == (built.parameters, built.buffer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_policy_allocates_exactly_that(dtype, tmp_path):
    """One process: buffers of parameters and gradients, and after a step the optimizer's state."""
    shape = shape_of(tmp_path, "qwen3")
    model = ModelConfig(path=tmp_path, random_init=True, dtype=dtype)
    planned = built_elements(shape, model, ParallelConfig(), 0, 1)
    with fake_world(ParallelConfig(), rank=0, world_size=1) as groups:
        policy = build_policy(
            shape,
            groups,
            model=model,
            parallel=ParallelConfig(),
            optim=OptimConfig(),
            num_updates=1,
            temperature=1.0,
            seed=1,
            device=torch.device("cpu"),
        )
        policy.optimizer.prepare_grads()
        policy.optimizer.step()
        (chunk,) = policy.model
        assert parameter_and_gradient_bytes(chunk) == expected_bytes(planned, dtype)
        assert optimizer_bytes(policy.optimizer) == planned.optimized * (
            12 if dtype == "bfloat16" else 8
        )


def parameter_and_gradient_bytes(chunk: DistributedDataParallel) -> tuple[int, int]:
    buffers = chunk.buffers
    return sum(b.param_data.nbytes for b in buffers), sum(b.grad_data.nbytes for b in buffers)


def expected_bytes(planned: HeldElements, dtype: str) -> tuple[int, int]:
    return planned.buffer * (2 if dtype == "bfloat16" else 4), planned.buffer * 4


def optimizer_bytes(optimizer) -> int:
    """Moments, and the float32 copies that bfloat16 parameters have."""
    (whole,) = optimizer.chained_optimizers
    moments = [
        value
        for state in whole.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.dim() > 0
    ]
    copies = [copy for group in whole.shard_fp32_from_float16_groups for copy in group]
    return sum(tensor.nbytes for tensor in [*moments, *copies])


def test_qwen25_32b_has_its_parameters(tmp_path):
    shape = read_hf_config(write(tmp_path, QWEN25_32B))
    assert num_parameters(entries_of(shape)) == 32_763_876_352


@pytest.mark.parametrize("pipeline", [1, 4])
def test_megatron_s_own_estimate_agrees(pipeline, tmp_path):
    """`theoretical_memory_usage`: 2 bytes a parameter, 4 a gradient and 12 / dp of optimizer. It
    leaves out biases, norms of queries and keys, and padding: 0.1% of a Qwen2.5-32B."""
    from megatron.training.theoretical_memory_usage import compute_weight_and_optimizer_memory

    shape = read_hf_config(write(tmp_path, QWEN25_32B))
    parallel, data = ParallelConfig(tensor=8, pipeline=pipeline, sequence=True), 2
    world_size = parallel.replica * data
    theirs = compute_weight_and_optimizer_memory(megatron_arguments(shape, parallel, data))
    held = [
        tabulated_elements(entries_of(shape), parallel, stage, world_size)
        for stage in distinct_stages(parallel)
    ]
    ours = max(6 * stage.buffer + 12 * stage.optimized for stage in held)
    assert ours == pytest.approx(theirs, rel=1e-3)


def megatron_arguments(shape: ModelShape, parallel: ParallelConfig, data: int) -> Namespace:
    """The arguments that the formula reads."""
    return Namespace(
        kv_channels=shape.head_dim,
        num_attention_heads=shape.num_heads,
        hidden_size=shape.hidden_size,
        group_query_attention=True,
        num_query_groups=shape.num_kv_heads,
        num_experts=None,
        swiglu=True,
        moe_shared_expert_intermediate_size=None,
        num_layers=shape.num_layers,
        mtp_num_layers=None,
        normalization="RMSNorm",
        multi_latent_attention=False,
        padded_vocab_size=shape.vocab_size,
        untie_embeddings_and_output_weights=not shape.tied,
        ffn_hidden_size=shape.ffn_size,
        moe_latent_size=None,
        moe_router_topk=None,
        add_bias_linear=False,
        expert_tensor_parallel_size=1,
        expert_model_parallel_size=1,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        world_size=parallel.replica * data,
        data_parallel_size=data,
        use_distributed_optimizer=True,
    )
