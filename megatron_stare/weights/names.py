"""Megatron's parameters and the Hugging Face tensors behind them: one table per family.

Megatron names are those of the Transformer Engine layer spec, where a norm belongs to the linear
layer it feeds; one that feeds a router and experts stands alone. Adding a family is adding a table;
a parameter or a tensor that no rule covers is an error wherever the tables are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from megatron_stare.model_shape import Family, ModelShape
from megatron_stare.weights.layouts import (
    GateUp,
    GroupedQkv,
    Replicated,
    RowParallel,
    VocabParallel,
    WholeGateUp,
)
from megatron_stare.weights.rules import Entry, Rule, Table

_FULL, _ROWS, _VOCAB, _QKV, _GATE_UP, _WHOLE_GATE_UP = (
    Replicated(),
    RowParallel(),
    VocabParallel(),
    GroupedQkv(),
    GateUp(),
    WholeGateUp(),
)

EMBEDDING = (
    Rule(
        "embedding.word_embeddings.weight",
        {"model.embed_tokens.weight": "vocab hidden"},
        _VOCAB,
    ),
)
ATTENTION = (
    Rule(
        "self_attention.linear_qkv.layer_norm_weight",
        {"input_layernorm.weight": "hidden"},
        _FULL,
    ),
    Rule(
        "self_attention.linear_qkv.weight",
        {
            "self_attn.q_proj.weight": "heads hidden",
            "self_attn.k_proj.weight": "kv hidden",
            "self_attn.v_proj.weight": "kv hidden",
        },
        _QKV,
    ),
    Rule(
        "self_attention.linear_proj.weight",
        {"self_attn.o_proj.weight": "hidden heads"},
        _ROWS,
    ),
)
QKV_BIAS = (
    Rule(
        "self_attention.linear_qkv.bias",
        {
            "self_attn.q_proj.bias": "heads",
            "self_attn.k_proj.bias": "kv",
            "self_attn.v_proj.bias": "kv",
        },
        _QKV,
        when=lambda shape: shape.qkv_bias,
    ),
)
O_BIAS = (
    Rule(
        "self_attention.linear_proj.bias",
        {"self_attn.o_proj.bias": "hidden"},
        _FULL,
        when=lambda shape: shape.o_bias,
    ),
)
QK_NORM = (
    Rule("self_attention.q_layernorm.weight", {"self_attn.q_norm.weight": "head"}, _FULL),
    Rule("self_attention.k_layernorm.weight", {"self_attn.k_norm.weight": "head"}, _FULL),
)
GATED_MLP = (
    Rule(
        "mlp.linear_fc1.layer_norm_weight",
        {"post_attention_layernorm.weight": "hidden"},
        _FULL,
    ),
    Rule(
        "mlp.linear_fc1.weight",
        {"mlp.gate_proj.weight": "ffn hidden", "mlp.up_proj.weight": "ffn hidden"},
        _GATE_UP,
    ),
    Rule("mlp.linear_fc2.weight", {"mlp.down_proj.weight": "hidden ffn"}, _ROWS),
)
ROUTER = (
    Rule("pre_mlp_layernorm.weight", {"post_attention_layernorm.weight": "hidden"}, _FULL),
    Rule("mlp.router.weight", {"mlp.gate.weight": "experts hidden"}, _FULL),
)
EXPERT = (
    Rule(
        "linear_fc1.weight",
        {"gate_proj.weight": "ffn hidden", "up_proj.weight": "ffn hidden"},
        _WHOLE_GATE_UP,
    ),
    Rule("linear_fc2.weight", {"down_proj.weight": "hidden ffn"}, _FULL),
)
MLP_BIAS = (
    Rule(
        "mlp.linear_fc1.bias",
        {"mlp.gate_proj.bias": "ffn", "mlp.up_proj.bias": "ffn"},
        _GATE_UP,
        when=lambda shape: shape.mlp_bias,
    ),
    Rule(
        "mlp.linear_fc2.bias",
        {"mlp.down_proj.bias": "hidden"},
        _FULL,
        when=lambda shape: shape.mlp_bias,
    ),
)
HEAD = (
    Rule("decoder.final_layernorm.weight", {"model.norm.weight": "hidden"}, _FULL),
    Rule(
        "output_layer.weight",
        {"lm_head.weight": "vocab hidden"},
        _VOCAB,
        when=lambda shape: not shape.tied,
    ),
    Rule(
        "output_layer.weight",
        {"model.embed_tokens.weight": "vocab hidden"},
        _VOCAB,
        when=lambda shape: shape.tied,
        is_copy=True,
    ),
)

TABLES: dict[Family, Table] = {
    "qwen2": Table(EMBEDDING, (*ATTENTION, *QKV_BIAS, *GATED_MLP), HEAD),
    "qwen3": Table(EMBEDDING, (*ATTENTION, *QKV_BIAS, *O_BIAS, *QK_NORM, *GATED_MLP), HEAD),
    "llama": Table(EMBEDDING, (*ATTENTION, *QKV_BIAS, *O_BIAS, *GATED_MLP, *MLP_BIAS), HEAD),
    "mistral": Table(EMBEDDING, (*ATTENTION, *GATED_MLP), HEAD),
    "qwen3_moe": Table(
        EMBEDDING, (*ATTENTION, *QKV_BIAS, *O_BIAS, *QK_NORM, *ROUTER), HEAD, EXPERT
    ),
}


def model_entries(shape: ModelShape) -> dict[str, Entry]:
    """The table of a model, by Megatron name with global layer indices, in forward order."""
    return {entry.megatron: entry for entry in TABLES[shape.family].entries(shape)}


def hf_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Of every tensor, by Hugging Face name, in forward order."""
    entries = model_entries(shape).values()
    return {name: tuple(size) for entry in entries for name, size in entry.hf.items()}


def entries_of(shape: ModelShape) -> tuple[Entry, ...]:
    """The parameters of the whole network: its name table, spelled out."""
    return tuple(model_entries(shape).values())


def num_parameters(entries: Sequence[Entry]) -> int:
    """Of the whole network; tied embeddings count once."""
    exported = (entry for entry in entries if not entry.is_copy)
    return sum(math.prod(size) for entry in exported for size in entry.hf.values())
