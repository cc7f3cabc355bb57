"""The LM head as a pair of Triton kernels: logits stay in registers.

Forward: a program takes ROWS tokens by a split of SPLIT columns, tile after tile of COLS; it
multiplies, and folds the tile into the running partial (`partials.py`). The partials of all splits
go to memory, 16 bytes per token and split, and merge there. Backward: a program multiplies one tile
again and writes its d_logits in the type of the inputs, for the two products that follow.

Products accumulate in float32, and float32 operands are not rounded to TF32. Programs are numbered
in bands of GROUP row blocks, so that those running at a time share operands in L2 cache. Any n, h
and v are masked, with -inf where there is no column. Tiles are tuned on first use for each h and v,
once for few tokens and once for many, so that a small micro-batch does not choose for large ones.
Two runs may time them differently, take others, and round differently: the environment variable
MEGATRON_STARE_HEAD_TILE=128x256x64x8x3 leaves the one of that name.
Under TRITON_INTERPRET=1, which must be set before this module is imported, the kernels run on CPU,
in float32 and float16 (the interpreter multiplies the bits of bfloat16).
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.ops.head_tiles import KeptTiles, Tile
from megatron_stare.ops.partials import RowTerms, empty_partial, merge

_SPLIT = 1024
"""Columns of a partial: its 16 bytes are 1/64 byte a logit."""

_MANY_TOKENS = 4096

_TUNED_FOR = ["h", "v", "is_many"]
"""`is_many` is read by the tuner alone: a bool, whose values Triton compiles no binaries for."""


_TILE_VARIABLE = "MEGATRON_STARE_HEAD_TILE"
_TILES = (
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (256, 128, 64, 8, 3),
    (128, 128, 64, 8, 4),
    (64, 256, 64, 8, 3),
    (64, 128, 32, 4, 4),
)
"""(ROWS, COLS, DEPTH, warps, stages): all fit into shared memory, and into registers but for some
100 bytes of the epilogue. 128 x 128 on 4 warps would take ptxas minutes for Blackwell."""


def configs(pinned: str | None) -> list[triton.Config]:
    """What the tuner chooses from: all tiles, or the pinned one, named by its numbers.

    Raises:
        UserError: no tile is named so.
    """
    if triton.knobs.runtime.interpret:  # pyright: ignore[reportAttributeAccessIssue]
        return [triton.Config({"ROWS": 32, "COLS": 256, "DEPTH": 64, "GROUP": 2})]
    named = {"x".join(map(str, tile)): tile for tile in _TILES}
    if pinned is not None and pinned not in named:
        raise UserError(f"{_TILE_VARIABLE}={pinned}: expected one of {', '.join(named)}")
    return [
        triton.Config(
            {"ROWS": rows, "COLS": cols, "DEPTH": depth, "GROUP": 8},
            num_warps=warps,
            num_stages=stages,
        )
        for name, (rows, cols, depth, warps, stages) in named.items()
        if pinned in (None, name)
    ]


_CONFIGS = configs(os.environ.get(_TILE_VARIABLE))


def triton_partial(
    hidden: Tensor,
    columns: Tensor,
    local_targets: Tensor,
    temperature: Tensor,
    tile: Tile,
    kept: KeptTiles,
) -> Tensor:
    """As `head_tiles.head_partial`; the tile is the kernel's own, and none is kept."""
    n, v = len(hidden), len(columns)
    if n == 0 or v == 0:
        return empty_partial(local_targets)
    num_splits = triton.cdiv(v, _SPLIT)
    partials = torch.empty(num_splits, 4, n, dtype=torch.float32, device=hidden.device)
    hidden, columns = hidden.contiguous(), columns.contiguous()
    _partial_kernel[lambda meta: (triton.cdiv(n, meta["ROWS"]) * num_splits,)](
        hidden,
        columns,
        local_targets.contiguous(),
        temperature.contiguous(),
        partials,
        n,
        v,
        hidden.shape[1],
        n >= _MANY_TOKENS,
        SPLIT=_SPLIT,
    )
    return merge(partials)


def triton_d_logits(
    hidden: Tensor, columns: Tensor, local_targets: Tensor, terms: RowTerms
) -> Tensor:
    """As `head_tiles.head_d_logits`, in the type of the columns."""
    n, v = len(hidden), len(columns)
    d_logits = torch.empty(n, v, dtype=columns.dtype, device=hidden.device)
    moment_weight = terms.moment_weight
    _d_logits_kernel[lambda meta: (triton.cdiv(n, meta["ROWS"]) * triton.cdiv(v, meta["COLS"]),)](
        hidden.contiguous(),
        columns.contiguous(),
        local_targets.contiguous(),
        terms.temperature.contiguous(),
        terms.maximum.contiguous(),
        terms.weight.contiguous(),
        terms.slope.contiguous(),
        None if moment_weight is None else moment_weight.contiguous(),
        d_logits,
        n,
        v,
        hidden.shape[1],
        n >= _MANY_TOKENS,
    )
    return d_logits


@triton.jit
def _place(program, num_row_blocks, num_column_blocks, GROUP: tl.constexpr):
    """The (row block, column block) of a program: down a band of GROUP row blocks, then right."""
    band_size = GROUP * num_column_blocks
    first = (program // band_size) * GROUP
    height = min(num_row_blocks - first, GROUP)
    within = program % band_size
    return first + within % height, within // height


@triton.jit
def _tile_logits(
    hidden,
    columns,
    rows,
    cols,
    n,
    v,
    h,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """hidden[rows] @ columns[cols].T, float32 `[ROWS, COLS]`; 0 outside [0, n) and [0, v)."""
    depth = tl.arange(0, DEPTH)
    hidden_at = hidden + rows.to(tl.int64)[:, None] * h + depth[None, :]
    columns_at = columns + cols.to(tl.int64)[None, :] * h + depth[:, None]
    logits = tl.zeros([ROWS, COLS], dtype=tl.float32)
    for start in range(0, h, DEPTH):
        inside = depth < h - start
        a = tl.load(hidden_at, mask=(rows < n)[:, None] & inside[None, :], other=0.0)
        b = tl.load(columns_at, mask=(cols < v)[None, :] & inside[:, None], other=0.0)
        logits = tl.dot(a, b, logits, input_precision="ieee")
        hidden_at += DEPTH
        columns_at += DEPTH
    return logits


@triton.autotune(configs=_CONFIGS, key=_TUNED_FOR)
@triton.jit
def _partial_kernel(
    hidden,
    columns,
    targets,
    temperatures,
    partials,
    n,
    v,
    h,
    is_many,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """partials `[splits, 4, n]` of hidden `[n, h]` and columns `[v, h]`."""
    num_splits = tl.cdiv(v, SPLIT)
    row_block, split = _place(tl.program_id(0), tl.cdiv(n, ROWS), num_splits, GROUP)
    rows = row_block * ROWS + tl.arange(0, ROWS)
    target = tl.load(targets + rows, mask=rows < n, other=-1)
    temperature = tl.load(temperatures + rows, mask=rows < n, other=1.0)
    maximum = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    moment = tl.zeros([ROWS], dtype=tl.float32)
    target_logit = tl.zeros([ROWS], dtype=tl.float32)
    for start in range(split * SPLIT, min((split + 1) * SPLIT, v), COLS):
        cols = start + tl.arange(0, COLS)
        logits = _tile_logits(hidden, columns, rows, cols, n, v, h, ROWS, COLS, DEPTH)
        logits = logits / temperature[:, None]
        is_column = (cols < v)[None, :]
        is_target = is_column & (cols[None, :] == target[:, None])
        target_logit += tl.sum(tl.where(is_target, logits, 0.0), 1)
        # Every tile has a column, so from the first one on the maximum is finite.
        larger = tl.maximum(maximum, tl.max(tl.where(is_column, logits, float("-inf")), 1))
        shift = tl.where(maximum == float("-inf"), 0.0, maximum - larger)
        scale = tl.exp(shift)
        shifted = tl.where(is_column, logits - larger[:, None], 0.0)
        exp = tl.where(is_column, tl.exp(shifted), 0.0)
        moment = scale * (moment + shift * total) + tl.sum(exp * shifted, 1)
        total = scale * total + tl.sum(exp, 1)
        maximum = larger
    out = partials + split.to(tl.int64) * 4 * n + rows
    tl.store(out, maximum, mask=rows < n)
    tl.store(out + n, total, mask=rows < n)
    tl.store(out + 2 * n, moment, mask=rows < n)
    tl.store(out + 3 * n, target_logit, mask=rows < n)


@triton.autotune(configs=_CONFIGS, key=_TUNED_FOR)
@triton.jit
def _d_logits_kernel(
    hidden,
    columns,
    targets,
    temperatures,
    maxima,
    weights,
    slopes,
    moment_weights,
    d_logits,
    n,
    v,
    h,
    is_many,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """d_logits `[n, v]` by the formula of `RowTerms`."""
    row_block, column_block = _place(tl.program_id(0), tl.cdiv(n, ROWS), tl.cdiv(v, COLS), GROUP)
    rows = row_block * ROWS + tl.arange(0, ROWS)
    cols = column_block * COLS + tl.arange(0, COLS)
    target = tl.load(targets + rows, mask=rows < n, other=-1)
    temperature = tl.load(temperatures + rows, mask=rows < n, other=1.0)
    maximum = tl.load(maxima + rows, mask=rows < n, other=0.0)
    weight = tl.load(weights + rows, mask=rows < n, other=0.0)
    slope = tl.load(slopes + rows, mask=rows < n, other=0.0)
    logits = _tile_logits(hidden, columns, rows, cols, n, v, h, ROWS, COLS, DEPTH)
    # Outside the vocabulary, exp of 0 - maximum could overflow.
    is_column = (cols < v)[None, :]
    shifted = tl.where(is_column, logits / temperature[:, None] - maximum[:, None], 0.0)
    factor = weight[:, None]
    if moment_weights is not None:
        moment_weight = tl.load(moment_weights + rows, mask=rows < n, other=0.0)
        factor += moment_weight[:, None] * shifted
    is_target = cols[None, :] == target[:, None]
    gradient = tl.where(is_target, slope[:, None], 0.0) - tl.exp(shifted) * factor
    out = d_logits + rows.to(tl.int64)[:, None] * v + cols[None, :]
    tl.store(out, gradient, mask=(rows < n)[:, None] & is_column)
