"""Log-prob and entropy of tokens under a vocabulary-sharded softmax, with or without logits.

Each rank of `group` holds V/tp consecutive columns of the vocabulary, in rank order, padding last.
It reduces its columns to four numbers a token (`partials.py`), with the LM head inside if there are
no logits (`head_tiles.py`); one all-gather of those gives every rank the same results.

Shapes: n tokens, h hidden size, V vocabulary with padding, tp ranks of the group. Units: nats.
All ranks of the group pass the same n, targets and temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict, Unpack

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_stare.ops.head_kernels import kernels_for
from megatron_stare.ops.head_tiles import CHUNK_BYTES, KeptTiles, Tile, blocks, head_gradients
from megatron_stare.ops.partials import (
    RowTerms,
    TokenScores,
    VocabShard,
    combine,
    d_logits_,
    empty_partial,
    partial_of,
)


def logprob_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    differentiable_entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each token from its logits.

        >>> logprob, entropy = logprob_entropy(torch.zeros(1, 4), torch.tensor([2]))
        >>> round(logprob.item(), 4), round(entropy.item(), 4)
        (-1.3863, 1.3863)

    One all-gather of `[4, n]` float32 in the forward, no collective in the backward.

    Args:
        logits: float `[n, V/tp]`, finite; not modified.
        targets: int64 `[n]`, token ids in [0, vocab_size).
        temperature: divides the logits; a number, or float `[n]`.
        vocab_size: columns from here on are padding and count nowhere; default V.
        group: the ranks that share the vocabulary; None for one rank.
        differentiable_entropy: the entropy has a gradient too.

    Returns:
        logprob, entropy: float32 `[n]`; unless asked for, the entropy carries no gradient.

    Raises:
        RuntimeError: a target is out of range (on CUDA a device-side assertion, without a sync).
    """
    shard = VocabShard.of(logits.shape[1], vocab_size, group)
    _check_targets(targets, shard)
    scores = _LogitsLogprobEntropy.apply(
        logits, targets, _per_row(temperature, targets), shard, differentiable_entropy
    )
    return scores[:2]


class HeadOptions(TypedDict, total=False):
    """Those of `linear_token_scores`, where they are explained."""

    temperature: float | Tensor
    vocab_size: int | None
    group: dist.ProcessGroup | None
    chunk_size: int | None
    differentiable_entropy: bool
    main_grad: Tensor | None
    keep_bytes: int


def linear_logprob_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, **options: Unpack[HeadOptions]
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each token from its hidden state, without logits.

        >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])
        >>> logprob, entropy = linear_logprob_entropy(hidden, weight, torch.tensor([0]))
        >>> round(logprob.item(), 4), round(entropy.item(), 4)
        (-0.6931, 0.6931)

    Args:
        hidden: float `[n, h]`, the same on all ranks.
        weight: float `[V/tp, h]`, this rank's rows of the LM head.
        targets: int64 `[n]`, token ids.
        **options: as for `linear_token_scores`.

    Returns:
        logprob, entropy: float32 `[n]`; unless asked for, the entropy carries no gradient.
    """
    return linear_token_scores(hidden, weight, targets, **options)[:2]


def linear_token_scores(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    chunk_size: int | None = None,
    differentiable_entropy: bool = False,
    main_grad: Tensor | None = None,
    keep_bytes: int = 0,
    known: TokenScores | None = None,
) -> TokenScores:
    """Scores of each token from its hidden state, which spare a later call the forward.

    The LM head is inside. Logits exist for a tile of tokens and columns at a time, in float32, and
    are computed again in the backward; what is kept between the two is the inputs and O(n) floats,
    and as many tiles as the caller allows. One all-gather of `[4, n]` float32 in the forward. In
    the backward d_hidden is summed over the ranks, in float32 and by blocks of tokens while the
    next block is computed; so it is complete and the same everywhere: nobody need reduce it again.

    Args:
        hidden: float `[n, h]`, the same on all ranks.
        weight: float `[V/tp, h]`, this rank's rows of the LM head.
        chunk_size: tokens whose logits exist at a time; default from a budget of bytes.
        main_grad: float32 `[V/tp, h]`. If given, the gradient by `weight` is added to it, never
            rounded to weight's type, and autograd gets none.
        keep_bytes: of logits that may wait for a backward; the results are the same to the bit.
        known: what a call with the same inputs has returned; the forward then computes and
            communicates nothing.
        targets, temperature, vocab_size, group, differentiable_entropy: as for `logprob_entropy`.

    Returns:
        The log-probs carry a gradient; the entropies if asked for.

    Raises:
        RuntimeError: a target is out of range (on CUDA a device-side assertion, without a sync).
    """
    shard = VocabShard.of(weight.shape[0], vocab_size, group)
    _check_targets(targets, shard)
    scores = _LinearLogprobEntropy.apply(
        hidden,
        weight,
        targets,
        _per_row(temperature, targets),
        shard,
        Tile.for_head(weight.shape[1], weight.device, chunk_size),
        differentiable_entropy,
        main_grad,
        KeptTiles(keep_bytes if torch.is_grad_enabled() else 0),
        known,
    )
    return TokenScores(*scores)


class _LogitsLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: Tensor,
        shard: VocabShard,
        differentiable_entropy: bool,
    ):
        local_targets = targets - shard.start
        partial = empty_partial(targets)
        for rows in _row_blocks(logits, shard):
            scaled = _float32_copy(logits, rows, shard).div_(temperature[rows, None])
            partial[:, rows] = partial_of(scaled, local_targets[rows])
        scores = combine(partial, shard.group)
        _keep(ctx, (logits, local_targets), temperature, scores, differentiable_entropy)
        ctx.shard = shard
        return tuple(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprob: Tensor, d_entropy: Tensor, *_: Tensor):
        (logits, local_targets), terms = _kept(ctx, d_logprob, d_entropy)
        d_logits = torch.zeros_like(logits)
        for rows in _row_blocks(logits, ctx.shard):
            copied = _float32_copy(logits, rows, ctx.shard)
            gradient = d_logits_(copied, local_targets[rows], terms[rows])
            d_logits[rows, : ctx.shard.num_columns] = gradient
        return d_logits, None, None, None, None


class _LinearLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: Tensor,
        shard: VocabShard,
        tile: Tile,
        differentiable_entropy: bool,
        main_grad: Tensor | None,
        kept: KeptTiles,
        known: TokenScores | None,
    ):
        local_targets = targets - shard.start
        if known is None:
            columns = weight[: shard.num_columns]
            kernels = kernels_for(weight.device, weight.dtype)
            partial = kernels.partial(hidden, columns, local_targets, temperature, tile, kept)
            scores = combine(partial, shard.group)
        else:
            # Copies: autograd makes what is returned its own.
            scores = TokenScores(*(score.clone() for score in known))
        _keep(ctx, (hidden, weight, local_targets), temperature, scores, differentiable_entropy)
        # Not by `save_for_backward`, which forbids what others add to it before the backward.
        ctx.main_grad = main_grad
        ctx.shard, ctx.tile, ctx.kept = shard, tile, kept
        return tuple(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprob: Tensor, d_entropy: Tensor, *_: Tensor):
        (hidden, weight, local_targets), terms = _kept(ctx, d_logprob, d_entropy)
        d_weight = ctx.main_grad
        if d_weight is None:
            d_weight = torch.zeros_like(weight, dtype=torch.float32)
        parts = head_gradients(
            hidden,
            weight[: ctx.shard.num_columns],
            local_targets,
            terms,
            d_weight[: ctx.shard.num_columns],
            ctx.tile,
            ctx.kept,
            kernels_for(weight.device, weight.dtype).d_logits,
        )
        d_hidden = torch.empty_like(hidden)
        for rows, part in _summed_over_ranks(parts, ctx.shard.group):
            d_hidden[rows] = part
        returned = d_weight.to(weight.dtype) if ctx.main_grad is None else None
        return d_hidden, returned, *[None] * 8


def _keep(
    ctx: Any,
    inputs: tuple[Tensor, ...],
    temperature: Tensor,
    scores: TokenScores,
    differentiable_entropy: bool,
) -> None:
    _, entropies, *softmax = scores
    ctx.differentiable_entropy = differentiable_entropy
    if differentiable_entropy:
        ctx.save_for_backward(*inputs, temperature, *softmax, entropies)
        ctx.mark_non_differentiable(*softmax)
    else:
        ctx.save_for_backward(*inputs, temperature, *softmax)
        ctx.mark_non_differentiable(*softmax, entropies)


def _kept(ctx: Any, d_logprob: Tensor, d_entropy: Tensor) -> tuple[tuple[Tensor, ...], RowTerms]:
    """The inputs, and the terms of the gradient."""
    if ctx.differentiable_entropy:
        *inputs, temperature, maximum, total, entropy = ctx.saved_tensors
        terms = RowTerms.of(temperature, maximum, total, d_logprob, d_entropy, entropy)
    else:
        *inputs, temperature, maximum, total = ctx.saved_tensors
        terms = RowTerms.of(temperature, maximum, total, d_logprob, None, None)
    return tuple(inputs), terms


def _summed_over_ranks(
    parts: Iterator[tuple[slice, Tensor]], group: dist.ProcessGroup | None
) -> Iterator[tuple[slice, Tensor]]:
    """The parts, each summed over the group while the next one is computed."""
    if group is None:
        yield from parts
        return
    before = None
    for rows, part in parts:
        work = dist.all_reduce(part, group=group, async_op=True)
        if before is not None:
            yield _finished(*before)
        before = rows, part, work
    if before is not None:
        yield _finished(*before)


def _finished(rows: slice, part: Tensor, work: Any) -> tuple[slice, Tensor]:
    work.wait()
    return rows, part


def _check_targets(targets: Tensor, shard: VocabShard) -> None:
    in_range = (targets >= 0) & (targets < shard.vocab_size)
    message = f"a target is not a token id in [0, {shard.vocab_size})"
    torch._assert_async(in_range.all(), message)  # pyright: ignore[reportPrivateImportUsage]


def _per_row(temperature: float | Tensor, targets: Tensor) -> Tensor:
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=targets.device)
    return temperature.expand(targets.shape)


def _row_blocks(logits: Tensor, shard: VocabShard) -> Iterator[slice]:
    """Rows to copy to float32 at a time; none where every column of this rank is padding."""
    # A chunk holds the copy and its exponentials.
    size = max(CHUNK_BYTES[logits.device.type] // (8 * logits.shape[1]), 1)
    return blocks(len(logits) if shard.num_columns else 0, size)


def _float32_copy(logits: Tensor, rows: slice, shard: VocabShard) -> Tensor:
    return logits[rows, : shard.num_columns].to(torch.float32, copy=True)
