"""From a Hugging Face shape to Megatron-Core's GPTModel: the one place where the network is built.

Parameter names are those of Transformer Engine's layers whether or not it is there (layer_spec.py):
    embedding.word_embeddings.weight         first stage
    decoder.layers.{i}.<layer parameters>    i counts the layers of this stage
    decoder.final_layernorm.weight           last stage
    output_layer.weight                      last stage; with tied embeddings only where that is not
                                             also the first: a copy that Megatron keeps in step
The vocabulary is padded to the next multiple of the tensor-parallel size, ceil(V / tp) * tp, and no
further: padded rows belong to no token, and the head leaves them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_stare.config import ModelConfig, ParallelConfig
from megatron_stare.policy.groups import ParallelGroups
from megatron_stare.policy.layer_spec import block_spec, uses_transformer_engine
from megatron_stare.policy.platform import quietly
from megatron_stare.policy.random_init import init_randomly
from megatron_stare.policy.rope import attention_factor, inverse_frequencies
from megatron_stare.weights.hf_config import ModelShape


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
    """This rank's pipeline stage, as a list of one model chunk.

    Parameters are random (`random_init.py`, the same network in every layout) with
    `model.random_init`, and otherwise uninitialised memory for a checkpoint to fill.

    Raises:
        UserError: the layout cannot hold the network.
    """
    shape.check_parallel(parallel)
    model_parallel_cuda_manual_seed(
        seed, tp_rank=groups.tp.rank(), ep_rank=0, etp_rank=groups.tp.rank(), force_reset_rng=True
    )
    with quietly():
        gpt = _gpt_model(shape, _transformer_config(shape, model, parallel), groups)
    if model.random_init:
        init_randomly(
            dict(gpt.named_parameters()),
            shape,
            tp_rank=groups.tp.rank(),
            tp_size=groups.tp.size(),
            layer_offset=groups.layer_offset(shape.num_layers),
            seed=seed,
        )
    return [gpt]


def _gpt_model(shape: ModelShape, config: PolicyConfig, groups: ParallelGroups) -> GPTModel:
    num_layers = get_num_layers_to_build(config, pp_rank=groups.pp.rank())
    gpt = GPTModel(
        config,
        block_spec(shape, num_layers),  # pyright: ignore[reportArgumentType]
        vocab_size=padded_vocab_size(shape.vocab_size, groups.tp.size()),
        max_sequence_length=shape.max_positions,
        pre_process=groups.is_first_stage,
        post_process=groups.is_last_stage,
        share_embeddings_and_output_weights=shape.tied,
        position_embedding_type="rope" if uses_transformer_engine() else "none",
        pg_collection=groups.collection,
    )
    if uses_transformer_engine():
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
        softmax_scale=attention_factor(shape) ** 2 * shape.head_dim**-0.5,
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
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        # Micro-batches differ in length; Megatron wants this dispatcher with it, experts or not.
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",
        deallocate_pipeline_outputs=True,
        # Gradients are sums over tokens: the objective brings its own denominators.
        calculate_per_token_loss=True,
        perform_initialization=False,
        cuda_graph_modules=[],
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=on_gpu,
        apply_rope_fusion=uses_transformer_engine(),
        gradient_accumulation_fusion=False,
        **_recompute(model),
    )


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
