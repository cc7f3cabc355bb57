"""Log-prob and entropy of tokens under a vocabulary-sharded softmax, with or without logits.

Each rank of `group` holds V/tp consecutive columns of the vocabulary, in rank order, padding last.
One rank's columns reduce to four float32 numbers a token, the *partial*:
    max      of its logits
    sum      of exp(logit - max)
    moment   sum of (logit - max) exp(logit - max)
    target   the target's logit, 0 where another rank has it
One all-gather of the partials gives, with M the largest max, S and W the sums shifted to it:
    logprob = target - M - ln S           entropy = ln S - W / S
Shifted by M, nothing cancels however far the logits are from 0. The gradient is the log-prob's
alone: d logprob / d logit_j = [j = target] - exp(logit_j - M) / S.

Shapes: n tokens, h hidden size, V vocabulary with padding, tp ranks of the group. Units: nats.
All ranks of the group pass the same n, targets and temperature, and get identical results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_SIZE = 1024


def logprob_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each token from its logits.

    One all-gather of `[4, n]` float32 in the forward, no collective in the backward.

    Args:
        logits: float `[n, V/tp]`, finite; not modified.
        targets: int64 `[n]`, token ids in [0, vocab_size).
        temperature: divides the logits; a number, or float `[n]`.
        vocab_size: columns from here on are padding and count nowhere; default V.
        group: the ranks that share the vocabulary; None for one rank.

    Returns:
        logprob, entropy: float32 `[n]`; the entropy carries no gradient.

    Raises:
        RuntimeError: a target is out of range (on CUDA a device-side assertion, without a sync).
    """
    shard = _Shard.of(logits.shape[1], vocab_size, group)
    _check_targets(targets, shard)
    return _LogitsLogprobEntropy.apply(logits, targets, _per_row(temperature, targets), shard)


def linear_logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    chunk_size: int = _CHUNK_SIZE,
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each token from its hidden state; the LM head is inside.

    Logits exist for `chunk_size` tokens at a time, in float32, and are computed again in the
    backward; what is kept between the two is the inputs and O(n) floats. One all-gather of
    `[4, n]` float32 in the forward; one all-reduce of d_hidden in the backward, so that the hidden
    gradient is complete and identical on all ranks: nobody need reduce it again.

    Args:
        hidden: float `[n, h]`, the same on all ranks.
        weight: float `[V/tp, h]`, this rank's rows of the LM head.
        chunk_size: tokens whose logits exist at a time.
        targets, temperature, vocab_size, group: as for `logprob_entropy`.

    Returns:
        logprob, entropy: float32 `[n]`; the entropy carries no gradient.

    Raises:
        RuntimeError: a target is out of range (on CUDA a device-side assertion, without a sync).
    """
    shard = _Shard.of(weight.shape[0], vocab_size, group)
    _check_targets(targets, shard)
    return _LinearLogprobEntropy.apply(
        hidden, weight, targets, _per_row(temperature, targets), shard, chunk_size
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    """This rank's columns of the vocabulary: the first `num_columns` it holds, from `start` on."""

    start: int
    num_columns: int
    vocab_size: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, width: int, vocab_size: int | None, group: dist.ProcessGroup | None) -> _Shard:
        rank, size = (0, 1) if group is None else (group.rank(), group.size())
        vocab_size = width * size if vocab_size is None else vocab_size
        if vocab_size > width * size:
            raise ValueError(f"vocab_size {vocab_size} exceeds {size} shards of {width} columns")
        start = rank * width
        return cls(start, min(max(vocab_size - start, 0), width), vocab_size, group)


class _LogitsLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: Tensor, shard: _Shard):
        local_targets = targets - shard.start
        partial = _empty_partial(targets)
        for rows in _chunks(targets, shard, _CHUNK_SIZE):
            scaled = _scaled(logits[rows, : shard.num_columns], temperature[rows])
            partial[:, rows] = _partial(scaled, local_targets[rows])
        logprob, entropy, maximum, total = _combine(partial, shard.group)
        ctx.save_for_backward(logits, local_targets, temperature, maximum, total)
        ctx.shard = shard
        ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprob: Tensor, _: Tensor):
        logits, local_targets, temperature, maximum, total = ctx.saved_tensors
        num_columns = ctx.shard.num_columns
        slope = d_logprob / temperature
        terms = torch.stack([maximum, slope / total, slope])
        d_logits = torch.zeros_like(logits)
        for rows in _chunks(local_targets, ctx.shard, _CHUNK_SIZE):
            scaled = _scaled(logits[rows, :num_columns], temperature[rows])
            d_logits[rows, :num_columns] = _d_logits(scaled, local_targets[rows], *terms[:, rows])
        return d_logits, None, None, None


class _LinearLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: Tensor,
        shard: _Shard,
        chunk_size: int,
    ):
        local_targets = targets - shard.start
        columns = weight[: shard.num_columns]
        partial = _empty_partial(targets)
        for rows in _chunks(targets, shard, chunk_size):
            logits = _matmul(hidden[rows], columns.t()).div_(temperature[rows, None])
            partial[:, rows] = _partial(logits, local_targets[rows])
        logprob, entropy, maximum, total = _combine(partial, shard.group)
        ctx.save_for_backward(hidden, weight, local_targets, temperature, maximum, total)
        ctx.shard, ctx.chunk_size = shard, chunk_size
        ctx.mark_non_differentiable(entropy)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprob: Tensor, _: Tensor):
        hidden, weight, local_targets, temperature, maximum, total = ctx.saved_tensors
        shard: _Shard = ctx.shard
        columns = weight[: shard.num_columns]
        slope = d_logprob / temperature
        terms = torch.stack([maximum, slope / total, slope])
        d_hidden = torch.zeros_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows in _chunks(local_targets, shard, ctx.chunk_size):
            logits = _matmul(hidden[rows], columns.t()).div_(temperature[rows, None])
            d_logits = _d_logits(logits, local_targets[rows], *terms[:, rows])
            d_hidden[rows] = _matmul(d_logits, columns)
            d_weight[: shard.num_columns] += _matmul(d_logits.t(), hidden[rows])
        if shard.group is not None:
            dist.all_reduce(d_hidden, group=shard.group)
        return d_hidden, d_weight.to(weight.dtype), None, None, None, None


def _check_targets(targets: Tensor, shard: _Shard) -> None:
    in_range = (targets >= 0) & (targets < shard.vocab_size)
    message = f"a target is not a token id in [0, {shard.vocab_size})"
    torch._assert_async(in_range.all(), message)  # pyright: ignore[reportPrivateImportUsage]


def _per_row(temperature: float | Tensor, targets: Tensor) -> Tensor:
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=targets.device)
    return temperature.expand(targets.shape)


def _chunks(targets: Tensor, shard: _Shard, size: int) -> Iterator[slice]:
    """Row slices; none where every column of this rank is padding."""
    for start in range(0, len(targets) if shard.num_columns else 0, size):
        yield slice(start, start + size)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, accumulated and returned in float32, whatever the inputs are."""
    if b.is_cuda and b.dtype != torch.float32:
        return torch.mm(a.to(b.dtype), b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _scaled(logits: Tensor, temperature: Tensor) -> Tensor:
    return logits.to(torch.float32, copy=True).div_(temperature[:, None])


def _empty_partial(targets: Tensor) -> Tensor:
    """What a rank without columns sends; its max is finite because -inf * 0 is NaN."""
    partial = torch.zeros(4, len(targets), dtype=torch.float32, device=targets.device)
    partial[0] = torch.finfo(torch.float32).min
    return partial


def _partial(logits: Tensor, local_targets: Tensor) -> Tensor:
    """The partial `[4, rows]` of logits `[rows, num_columns]`, which are overwritten."""
    here = (local_targets >= 0) & (local_targets < logits.shape[1])
    target = logits.gather(1, (local_targets * here)[:, None])[:, 0] * here
    maximum = logits.amax(1)
    shifted = logits.sub_(maximum[:, None])
    exp = shifted.exp()
    total = exp.sum(1)
    moment = exp.mul_(shifted).sum(1)
    return torch.stack([maximum, total, moment, target])


def _combine(
    partial: Tensor, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob, entropy, M and S `[n]` from this rank's partial `[4, n]`."""
    partials = partial[None]
    if group is not None:
        gathered = partial.new_empty(group.size() * len(partial), partial.shape[1])
        dist.all_gather_single(gathered, partial, group=group)
        partials = gathered.view(group.size(), *partial.shape)
    maxima, totals, moments, targets = partials.unbind(1)
    maximum = maxima.amax(0)
    shift = maxima - maximum
    scale = shift.exp()
    total = (scale * totals).sum(0)
    moment = (scale * (moments + shift * totals)).sum(0)
    log_total = total.log()
    return targets.sum(0) - maximum - log_total, log_total - moment / total, maximum, total


def _d_logits(
    logits: Tensor, local_targets: Tensor, maximum: Tensor, slope_over_total: Tensor, slope: Tensor
) -> Tensor:
    """slope * d logprob / d logits, in place of logits `[rows, num_columns]`; the rest `[rows]`."""
    gradient = logits.sub_(maximum[:, None]).exp_().mul_(-slope_over_total[:, None])
    here = (local_targets >= 0) & (local_targets < logits.shape[1])
    return gradient.scatter_add_(1, (local_targets * here)[:, None], (slope * here)[:, None])
