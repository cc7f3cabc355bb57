"""A small network's shape, to vary with `dataclasses.replace`."""

from __future__ import annotations

from megatron_stare.model_shape import ModelShape

TINY = ModelShape(
    family="qwen3",
    hidden_size=48,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    ffn_size=80,
    vocab_size=259,
    rms_eps=1e-6,
    rope_theta=10_000.0,
    rope_scaling=None,
    max_positions=512,
    tied=False,
    qkv_bias=True,
    o_bias=True,
    mlp_bias=False,
    qk_norm=True,
    raw={},
)
