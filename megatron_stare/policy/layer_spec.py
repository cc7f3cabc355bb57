"""What a layer is made of: Transformer Engine's modules on GPUs, torch's elsewhere and in float32.

Parameters of a layer, either way:
    self_attention.linear_qkv.{layer_norm_weight, weight, bias}
    self_attention.{q,k}_layernorm.weight
    self_attention.linear_proj.{weight, bias}
    mlp.linear_fc1.{layer_norm_weight, weight, bias}
    mlp.linear_fc2.{weight, bias}
or, with experts, in place of the last two
    pre_mlp_layernorm.weight
    mlp.router.weight
    mlp.experts.local_experts.{e}.linear_fc{1,2}.weight    e counts the experts of this rank
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core.extensions.transformer_engine import HAVE_TE, TENorm
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_with_transformer_engine_submodules,
)
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.attention import packed_attention
from megatron_stare.policy.context_attention import context_attention
from megatron_stare.policy.norm import NormColumnParallelLinear, RMSNorm
from megatron_stare.policy.packed import PackedSequences
from megatron_stare.policy.rope import RotaryTable, inverse_frequencies, rotate


def uses_transformer_engine(dtype: torch.dtype) -> bool:
    """Whether layers of this type are Transformer Engine's: it is there, and so is a GPU.

    Its fused attention takes no float32. What it would do instead keeps scores of sequences x heads
    x longest^2, and cannot split a sequence.
    """
    return HAVE_TE and torch.cuda.is_available() and dtype != torch.float32


def block_spec(
    shape: ModelShape, num_layers: int, dtype: torch.dtype
) -> TransformerBlockSubmodules:
    """The layers of one pipeline stage and the norm after the last."""
    if uses_transformer_engine(dtype):
        layer = get_gpt_layer_with_transformer_engine_submodules(
            qk_layernorm=shape.qk_norm, num_experts=shape.moe and shape.moe.num_experts
        )
        layer_norm = TENorm
    else:
        layer = _torch_layer(shape)
        layer_norm = RMSNorm
    _set_biases(layer, shape)
    spec = ModuleSpec(module=TransformerLayer, submodules=layer)
    return TransformerBlockSubmodules(layer_specs=[spec] * num_layers, layer_norm=layer_norm)


def _torch_layer(shape: ModelShape) -> TransformerLayerSubmodules:
    qk_norm = RMSNorm if shape.qk_norm else None
    core_attention: Any = partial(PackedAttention, RotaryTable(inverse_frequencies(shape)))
    bias_dropout_add: Any = get_bias_dropout_add
    attention = SelfAttentionSubmodules(
        linear_qkv=NormColumnParallelLinear,
        core_attention=core_attention,
        linear_proj=RowParallelLinear,
        q_layernorm=qk_norm,
        k_layernorm=qk_norm,
    )
    norm_and_mlp: dict[str, Any] = _torch_experts(shape) if shape.moe else _torch_mlp(shape)
    return TransformerLayerSubmodules(
        self_attention=ModuleSpec(
            module=SelfAttention,
            params={"attn_mask_type": AttnMaskType.causal},
            submodules=attention,
        ),
        self_attn_bda=bias_dropout_add,
        mlp_bda=bias_dropout_add,
        **norm_and_mlp,
    )


def _torch_mlp(shape: ModelShape) -> dict[str, Any]:
    linears = MLPSubmodules(linear_fc1=NormColumnParallelLinear, linear_fc2=RowParallelLinear)
    mlp = partial(MLP.as_mlp_submodule, submodules=linears, ffn_hidden_size=shape.ffn_size)
    return {"mlp": mlp}


def _torch_experts(shape: ModelShape) -> dict[str, Any]:
    """The norm stands by itself: the router reads its output too."""
    experts = get_moe_module_spec(use_te=False, num_experts=shape.num_experts)
    return {"pre_mlp_layernorm": RMSNorm, "mlp": experts}


def _set_biases(layer: TransformerLayerSubmodules, shape: ModelShape) -> None:
    """Biases linear by linear: Megatron's config knows only all of them, or those of q, k and v."""
    specs: Any = layer
    attention = specs.self_attention.submodules
    attention.linear_proj = _with_bias(attention.linear_proj, shape.o_bias)
    if shape.moe:
        return
    mlp = specs.mlp.keywords["submodules"]
    mlp.linear_fc1 = _with_bias(mlp.linear_fc1, shape.mlp_bias)
    mlp.linear_fc2 = _with_bias(mlp.linear_fc2, shape.mlp_bias)


def _with_bias(builder: Callable[..., Any], has_bias: bool) -> Callable[..., Any]:
    def build(*sizes: int, **options: Any) -> torch.nn.Module:
        return builder(*sizes, **(options | {"bias": has_bias}))

    return build


class PackedAttention(torch.nn.Module):
    """Megatron's core attention: rotary embedding, then attention; it has no parameters.

    Args:
        rotary: shared by all layers.
        softmax_scale, pg_collection: from Megatron, with whatever else it gives core attentions.
    """

    def __init__(
        self,
        rotary: RotaryTable,
        *,
        softmax_scale: float,
        pg_collection: ProcessGroupCollection,
        **_: Any,
    ) -> None:
        super().__init__()
        self.rotary = rotary
        self.scale = softmax_scale
        self.cp_group = pg_collection.cp

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        *,
        packed_seq_params: PackedSequences,
        **_: Any,
    ) -> Tensor:
        """Shapes as of `packed_attention`, over the tokens on this context rank."""
        packed = packed_seq_params
        cos_sin = self.rotary(packed.positions, packed.max_seqlen_q, query.dtype)
        qkv = rotate(query, cos_sin), rotate(key, cos_sin), value
        if self.cp_group.size() == 1:
            return packed_attention(*qkv, packed.attention_plan, self.scale)
        return context_attention(*qkv, packed.context_plan, self.scale, self.cp_group)
