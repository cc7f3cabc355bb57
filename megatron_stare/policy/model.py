"""From a Hugging Face shape to Megatron-Core's GPTModel: the one place where the network is built.

Parameter names are those of Transformer Engine's layers whether or not it is there (layer_spec.py):
    embedding.word_embeddings.weight         first stage
    decoder.layers.{i}.<layer parameters>    i counts the layers of this chunk; `named_parameters`
                                             counts those of the network, as it does experts
    decoder.final_layernorm.weight           last stage
    output_layer.weight                      last stage; with tied embeddings only where that is not
                                             also the first: a copy that Megatron keeps in step
The vocabulary is padded to the next multiple of the tensor-parallel size, ceil(V / tp) * tp, and no
further: padded rows belong to no token, and the head leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.groups import ParallelGroups, chunks_of_a_stage
from megatron_stare.policy.layer_spec import block_spec, uses_transformer_engine
from megatron_stare.policy.platform import quietly
from megatron_stare.policy.random_init import init_randomly
from megatron_stare.policy.rope import inverse_frequencies
from megatron_stare.weights.rope_scaling import attention_factor
from megatron_stare.weights.rules import global_names


@dataclass
class PolicyConfig(TransformerConfig):
    """Megatron's config and what this project's head needs."""

    vocab_size: int = 0
    """True vocabulary, without padding."""


def build_model(
    shape: ModelShape,
    model: ModelConfig,
    parallel: ParallelConfig,
    groups: ParallelGroups,
    *,
    seed: int,
) -> list[MegatronModule]:
    """This rank's pipeline stage: its model chunks, in the order of the forward pass.

    With P stages of V chunks, the network's layers are cut into P * V runs; stage p holds the runs
    p, p + P, p + 2P, ...

    Parameters are random (`random_init.py`, the same network in every layout) with
    `model.random_init`, and otherwise uninitialised memory for a checkpoint to fill.

    Raises:
        UserError: the layout cannot hold the network.
    """
    shape.check_parallel(parallel)
    model_parallel_cuda_manual_seed(
        seed,
        tp_rank=groups.tp.rank(),
        ep_rank=groups.ep.rank(),
        etp_rank=0,
        force_reset_rng=True,
    )
    config = _transformer_config(shape, model, parallel)
    with quietly():
        chunks: list[MegatronModule] = [
            _gpt_model(shape, config, groups, chunk, parallel.virtual_pipeline)
            for chunk in range(parallel.virtual_pipeline)
        ]
    if model.random_init:
        init_randomly(
            named_parameters(chunks),
            shape,
            tp_rank=groups.tp.rank(),
            tp_size=groups.tp.size(),
            seed=seed,
        )
    return chunks


def named_parameters(chunks: Sequence[torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """Parameters of the chunks by Transformer Engine names, global layer and expert indices."""
    named: dict[str, torch.nn.Parameter] = {}
    for chunk in chunks:
        layers = cast(torch.nn.ModuleList, chunk.get_submodule("decoder.layers"))
        # Megatron's layer numbers are those of the network, from 1.
        first = cast(TransformerLayer, layers[0])
        expert = first.mlp.local_expert_indices[0] if isinstance(first.mlp, MoELayer) else 0
        named |= global_names(dict(chunk.named_parameters()), first.layer_number - 1, expert)
    return named


def _gpt_model(
    shape: ModelShape, config: PolicyConfig, groups: ParallelGroups, chunk: int, num_chunks: int
) -> GPTModel:
    vp_stage = chunk if num_chunks > 1 else None
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=groups.pp.rank())
    has_te_layers = uses_transformer_engine(config.params_dtype)
    gpt = GPTModel(
        config,
        block_spec(shape, num_layers, config.params_dtype),  # pyright: ignore[reportArgumentType]
        vocab_size=padded_vocab_size(shape.vocab_size, groups.tp.size()),
        max_sequence_length=shape.max_positions,
        pre_process=groups.is_first_stage and chunk == 0,
        post_process=groups.is_last_stage and chunk == num_chunks - 1,
        share_embeddings_and_output_weights=shape.tied,
        position_embedding_type="rope" if has_te_layers else "none",
        pg_collection=groups.collection,
        vp_stage=vp_stage,
    )
    if has_te_layers:
        # Megatron knows Llama 3's scaling with fixed constants only, and not the other kinds.
        gpt.rotary_pos_emb.inv_freq = inverse_frequencies(shape)
    return gpt


def padded_vocab_size(vocab_size: int, tp_size: int) -> int:
    """Rows of the embedding over all tensor-parallel ranks."""
    return -(-vocab_size // tp_size) * tp_size


def _transformer_config(
    shape: ModelShape, model: ModelConfig, parallel: ParallelConfig
) -> PolicyConfig:
    dtype = getattr(torch, model.dtype)
    on_gpu = torch.cuda.is_available()
    return PolicyConfig(
        vocab_size=shape.vocab_size,
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_size,
        num_attention_heads=shape.num_heads,
        num_query_groups=shape.num_kv_heads,
        kv_channels=shape.head_dim,
        # Scaling queries and keys is scaling their product.
        softmax_scale=attention_factor(shape.rope_scaling) ** 2 * shape.head_dim**-0.5,
        normalization="RMSNorm",
        layernorm_epsilon=shape.rms_eps,
        qk_layernorm=shape.qk_norm,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        gated_linear_unit=True,
        activation_func=F.silu,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=chunks_of_a_stage(parallel),
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        # Micro-batches differ in length; Megatron wants this dispatcher with it, experts or not.
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",
        deallocate_pipeline_outputs=True,
        # In one batch of sends, two stages that are each other's next and previous mix them up.
        overlap_p2p_comm=parallel.virtual_pipeline > 1,
        batch_p2p_comm=parallel.virtual_pipeline == 1,
        # Gradients are sums over tokens: the objective brings its own denominators.
        calculate_per_token_loss=True,
        perform_initialization=False,
        cuda_graph_modules=[],
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=on_gpu,
        apply_rope_fusion=uses_transformer_engine(dtype),
        gradient_accumulation_fusion=False,
        **_recompute(model),
        **_experts(shape, parallel),
    )


def _experts(shape: ModelShape, parallel: ParallelConfig) -> dict[str, Any]:
    """Every token to its experts: nothing balances their load, nothing is dropped."""
    if shape.moe is None:
        return {}
    return {
        "num_moe_experts": shape.moe.num_experts,
        "moe_ffn_hidden_size": shape.ffn_size,
        "moe_router_topk": shape.moe.experts_per_token,
        # A softmax over the chosen experts alone is that over all of them, scaled to sum to 1.
        "moe_router_pre_softmax": not shape.moe.normalize,
        "moe_router_load_balancing_type": "none",
        "moe_router_dtype": "fp32",
        "expert_model_parallel_size": parallel.expert,
        "expert_tensor_parallel_size": 1,
    }


def _recompute(model: ModelConfig) -> dict[str, Any]:
    match model.recompute:
        case "none":
            return {}
        case "selective":
            return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
        case "full":
            return {
                "recompute_granularity": "full",
                "recompute_method": "uniform",
                "recompute_num_layers": 1,
            }
