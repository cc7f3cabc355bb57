"""The LM head tile by tile: a few tokens by a few columns, so that logits never exist as a whole.

The forward reduces each tile of logits to its partial (`partials.py`); the backward computes the
tile again, turns it into its gradient in place, and adds that into d_hidden and d_weight. Products
accumulate in float32, whatever the inputs are.

A tile is square, s tokens by s columns: d_hidden is then added to V / s times and d_weight n / s
times, which is the least traffic for a tile of its size. The side is the largest for which a chunk
fits into a budget: on CPU cache, on GPUs memory nobody misses. A chunk is all that a tile needs, in
float32: logits and their exponentials `[s, s]`; hidden states, weight, this d_hidden and the one
before, which is on its way, `[s, h]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from megatron_stare.ops.partials import RowTerms, d_logits_, empty_partial, merge, partial_of

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 512 << 20}


class Tile(NamedTuple):
    """Tokens and columns whose logits exist at a time."""

    rows: int
    columns: int

    @classmethod
    def for_head(cls, hidden_size: int, device: torch.device) -> Tile:
        """The square tile within the device's budget; a multiple of 64, as fast kernels want it."""
        floats = CHUNK_BYTES[device.type] // 4
        # The root of 2 s^2 + 4 s h = floats.
        side = isqrt(hidden_size**2 + floats // 2) - hidden_size
        side = max(side // 64 * 64, 64)
        return cls(side, side)


DLogits = Callable[[Tensor, Tensor, Tensor, RowTerms], Tensor]
"""(hidden `[c, h]`, columns `[v, h]`, local targets `[c]`, terms `[c]`) -> d_logits `[c, v]`."""


def blocks(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size`, together [0, length)."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def head_partial(
    hidden: Tensor, columns: Tensor, local_targets: Tensor, temperature: Tensor, tile: Tile
) -> Tensor:
    """The partial `[4, n]` of the logits hidden @ columns.T / temperature.

    Args:
        hidden: float `[n, h]`.
        columns: float `[v, h]`, v >= 0 rows of the LM head.
        local_targets: int64 `[n]`, targets counted from the first of the columns.
        temperature: float32 `[n]`.
    """
    partial = empty_partial(local_targets)
    if not len(hidden) or not len(columns):
        return partial
    for rows in blocks(len(hidden), tile.rows):
        hidden_rows = _operand(hidden[rows])
        parts = [
            partial_of(
                _matmul(hidden_rows, _operand(columns[span]).t()).div_(temperature[rows, None]),
                local_targets[rows] - span.start,
            )
            for span in blocks(len(columns), tile.columns)
        ]
        partial[:, rows] = merge(torch.stack(parts))
    return partial


def head_d_logits(
    hidden: Tensor, columns: Tensor, local_targets: Tensor, terms: RowTerms
) -> Tensor:
    """d loss / d logits of one tile, float32 `[c, v]`: a `DLogits`."""
    return d_logits_(_matmul(hidden, columns.t()), local_targets, terms)


def head_gradients(
    hidden: Tensor,
    columns: Tensor,
    local_targets: Tensor,
    terms: RowTerms,
    d_columns: Tensor,
    tile: Tile,
    d_logits: DLogits,
) -> Iterator[tuple[slice, Tensor]]:
    """Add d loss / d columns to `d_columns`; yield d loss / d hidden by blocks of tokens.

    Args:
        d_columns: float32 `[v, h]`.

    Yields:
        Rows, and their part of d_hidden over these columns, float32 `[c, h]`.
    """
    for rows in blocks(len(hidden), tile.rows):
        hidden_rows = _operand(hidden[rows])
        d_hidden = torch.zeros_like(hidden_rows, dtype=torch.float32)
        for span in blocks(len(columns), tile.columns):
            tile_columns = _operand(columns[span])
            local = local_targets[rows] - span.start
            gradient = d_logits(hidden_rows, tile_columns, local, terms[rows])
            _add_matmul(d_hidden, gradient, tile_columns)
            _add_matmul(d_columns[span], gradient.t(), hidden_rows)
        yield rows, d_hidden


def head_logits(hidden: Tensor, columns: Tensor, tile: Tile) -> Iterator[tuple[slice, Tensor]]:
    """The logits hidden @ columns.T tile by tile, float32 `[c, v]`: their rows, and themselves.

    They may be overwritten.
    """
    for rows in blocks(len(hidden), tile.rows):
        hidden_rows = _operand(hidden[rows])
        for span in blocks(len(columns), tile.columns):
            yield rows, _matmul(hidden_rows, _operand(columns[span]).t())


def _operand(values: Tensor) -> Tensor:
    """On CPU in float32, here once for all products of a tile; on GPUs as it is."""
    return values if values.is_cuda else values.float()


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32; on GPUs with operands in b's type, which halves the time of bfloat16."""
    if b.is_cuda and b.dtype != torch.float32:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    if b.is_cuda and b.dtype != torch.float32:
        total += _matmul(a, b)
    else:
        total.addmm_(a.float(), b.float())
