"""The LM head tile by tile: a few tokens by a few columns, so that logits never exist as a whole.

The forward reduces each tile of logits to its partial (`partials.py`); the backward computes the
tile again, unless it was kept, turns it into its gradient in place, and adds that into d_hidden and
d_weight. Products accumulate in float32, whatever the inputs are.

A tile is square, s tokens by s columns: d_hidden is then added to V / s times and d_weight n / s
times, which is the least traffic for a tile of its size. The side is the largest for which a chunk
fits into a budget: on CPU cache, on GPUs memory nobody misses. A chunk is all that a tile needs, in
float32: logits and their exponentials `[s, s]`; hidden states, weight, this d_hidden and the one
before, which is on its way, `[s, h]`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from megatron_stare.ops.partials import RowTerms, d_logits_, empty_partial, merge, partial_of

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 512 << 20}
KEPT_BYTES = {"cpu": 256 << 20, "cuda": 0}
"""Of logits that may wait for a backward. On GPUs reading them costs what computing them does."""


class Tile(NamedTuple):
    """Tokens and columns whose logits exist at a time."""

    rows: int
    columns: int

    @classmethod
    def for_head(cls, hidden_size: int, device: torch.device, rows: int | None = None) -> Tile:
        """The square tile within the device's budget; a multiple of 64, as fast kernels want it.

        With a number of rows, where one is given.
        """
        floats = CHUNK_BYTES[device.type] // 4
        # The root of 2 s^2 + 4 s h = floats.
        side = isqrt(hidden_size**2 + floats // 2) - hidden_size
        side = max(side // 64 * 64, 64)
        return cls(rows or side, side)


class KeptTiles:
    """Logits of a head's first tiles, as many as fit into a budget of bytes, for one backward.

    They are taken in the order in which they were put. Float32 `[c, v]`, not divided by the
    temperature.
    """

    def __init__(self, num_bytes: int) -> None:
        self._room = num_bytes
        self._tiles: deque[Tensor] = deque()

    def put(self, logits: Tensor) -> bool:
        """Whether there was room; none for a later tile where there was none for one before."""
        self._room -= logits.nbytes
        if self._room >= 0:
            self._tiles.append(logits)
        return self._room >= 0

    def take(self) -> Tensor | None:
        """The next one, the caller's from now on; None where it was not kept."""
        return self._tiles.popleft() if self._tiles else None


DLogits = Callable[[Tensor, Tensor, Tensor, RowTerms], Tensor]
"""(hidden `[c, h]`, columns `[v, h]`, local targets `[c]`, terms `[c]`) -> d_logits `[c, v]`."""


def blocks(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size`, together [0, length)."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def head_partial(
    hidden: Tensor,
    columns: Tensor,
    local_targets: Tensor,
    temperature: Tensor,
    tile: Tile,
    kept: KeptTiles,
) -> Tensor:
    """The partial `[4, n]` of the logits hidden @ columns.T / temperature.

    Args:
        hidden: float `[n, h]`.
        columns: float `[v, h]`, v >= 0 rows of the LM head.
        local_targets: int64 `[n]`, targets counted from the first of the columns.
        temperature: float32 `[n]`.
        kept: gets the tiles that it has room for.
    """
    partial = empty_partial(local_targets)
    if not len(hidden) or not len(columns):
        return partial
    for rows in blocks(len(hidden), tile.rows):
        hidden_rows, parts = _operand(hidden[rows]), []
        for span in blocks(len(columns), tile.columns):
            logits = _matmul(hidden_rows, _operand(columns[span]).t())
            out = torch.empty_like(logits) if kept.put(logits) else logits
            divided = torch.div(logits, temperature[rows, None], out=out)
            parts.append(partial_of(divided, local_targets[rows] - span.start))
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
    kept: KeptTiles,
    d_logits: DLogits,
) -> Iterator[tuple[slice, Tensor]]:
    """Add d loss / d columns to `d_columns`; yield d loss / d hidden by blocks of tokens.

    Args:
        d_columns: float32 `[v, h]`.
        kept: what the forward, with the same tile, has put; taken from here.
        d_logits: for the tiles that were not kept.

    Yields:
        Rows, and their part of d_hidden over these columns, float32 `[c, h]`.
    """
    for rows in blocks(len(hidden), tile.rows):
        hidden_rows = _operand(hidden[rows])
        d_hidden = torch.zeros_like(hidden_rows, dtype=torch.float32)
        for span in blocks(len(columns), tile.columns):
            tile_columns = _operand(columns[span])
            local = local_targets[rows] - span.start
            if (logits := kept.take()) is not None:
                gradient = d_logits_(logits, local, terms[rows])
            else:
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
