"""Rotary position embeddings of the supported families, as Hugging Face configs describe them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from megatron_stare.model_shape import ModelShape


def inverse_frequencies(shape: ModelShape) -> Tensor:
    """Angle per position of each pair of channels, in radians, float32 `[head_dim / 2]`.

    Plain RoPE: theta ** (-2i / head_dim). `linear` divides it by a factor; `llama3` (Llama 3.1) and
    `yarn` (Peng et al. 2023, arXiv:2309.00071) do so for long wavelengths only, and blend between.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    plain = 1.0 / shape.rope_theta**exponents
    scaling = shape.rope_scaling
    if scaling is None:
        return plain
    interpolated = plain / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return interpolated
    blend = _llama3_kept if scaling["rope_type"] == "llama3" else _yarn_kept
    kept = blend(plain, shape, scaling)
    return plain * kept + interpolated * (1.0 - kept)


def _llama3_kept(plain: Tensor, shape: ModelShape, scaling: dict[str, Any]) -> Tensor:
    """Share of the plain frequency that is kept, by rotations over the original context."""
    rotations = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    return ((rotations - low) / (high - low)).clamp(0.0, 1.0)


def _yarn_kept(plain: Tensor, shape: ModelShape, scaling: dict[str, Any]) -> Tensor:
    """Share of the plain frequency that is kept, linear in the channel between two bounds."""
    context = scaling["original_max_position_embeddings"]

    def channel(rotations: float) -> float:
        wavelengths = math.log(context / (rotations * 2 * math.pi))
        return shape.head_dim * wavelengths / (2 * math.log(shape.rope_theta))

    low, high = channel(scaling.get("beta_fast") or 32), channel(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, shape.head_dim - 1)
    channels = torch.arange(len(plain), dtype=torch.float32)
    return 1.0 - ((channels - low) / max(high - low, 1e-3)).clamp(0.0, 1.0)


class RotaryTable:
    """Cosines and sines by position, kept as far as positions have been asked for.

    One table serves all layers of a model.
    """

    def __init__(self, frequencies: Tensor) -> None:
        self._frequencies = frequencies
        self._table = torch.empty(0)

    def __call__(self, positions: Tensor, num_positions: int, dtype: torch.dtype) -> Tensor:
        """Cosine and sine `[T, 2, 1, head_dim]` at `positions`, int64 `[T]`, < `num_positions`."""
        table = self._table
        if len(table) < num_positions or table.dtype != dtype or table.device != positions.device:
            angles = torch.outer(torch.arange(num_positions).float(), self._frequencies)
            angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
            table = torch.stack([angles.cos(), angles.sin()], dim=1)
            self._table = table = table.to(positions.device, dtype)
        return table[positions]


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + head_dim / 2) of `x`, `[T, heads, head_dim]`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos_sin.unbind(1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
