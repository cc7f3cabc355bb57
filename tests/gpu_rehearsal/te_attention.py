"""Attention as Transformer Engine's C++ extension has it, and what context parallelism needs.

Shapes: t tokens of all sequences (thd), h heads, d their size, cu `[sequences + 1]` where each
begins and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tests.gpu_rehearsal.te_kernels import on_cuda, torch_type

__all__ = [
    "fused_attn_bwd",
    "fused_attn_fwd",
    "thd_out_correction",
    "thd_read_half_tensor",
    "thd_second_half_lse_correction",
]


def _sequences(cu_q: Tensor, cu_k: Tensor) -> Sequence[tuple[slice, slice]]:
    """Where the queries and the keys of each sequence are."""
    ends = cu_q.tolist(), cu_k.tolist()
    queries, keys = ([slice(*pair) for pair in pairwise(cu)] for cu in ends)
    return list(zip(queries, keys, strict=True))


def _logits(q: Tensor, k: Tensor, scale: float, mask: Any) -> Tensor:
    """Of one sequence, `[h, queries, keys]`; each KV head serves neighbouring query heads."""
    keys = k.float().repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = torch.einsum("qhd,khd->hqk", q.float(), keys) * scale
    if "CAUSAL" not in mask.name:
        return logits
    later = torch.ones(logits.shape[1:], dtype=torch.bool, device=q.device).triu(1)
    return logits.masked_fill(later, -torch.inf)


@on_cuda
def fused_attn_fwd(*arguments: Any) -> list[Tensor]:
    """Attention within sequences: values `[t, h, d]`, the logits' log-sums `[t, h, 1]`, a state."""
    scale, dropout, mask = arguments[3], arguments[4], arguments[10]
    cu_q, cu_k, q, k, v, out_type, cu_q_padded, cu_k_padded = arguments[14:22]
    assert dropout == 0
    outs, log_sums = [], []
    cu_q = cu_q if cu_q_padded is None else cu_q_padded
    cu_k = cu_k if cu_k_padded is None else cu_k_padded
    for queries, keys in _sequences(cu_q, cu_k):
        logits = _logits(q[queries], k[keys], scale, mask)
        values = v[keys].float().repeat_interleave(q.shape[1] // v.shape[1], 1)
        log_sums.append(logits.logsumexp(-1).t())
        outs.append(torch.einsum("hqk,khd->qhd", logits.softmax(-1), values))
    out = torch.cat(outs).to(torch_type(out_type) or q.dtype)
    state = torch.zeros(2, dtype=torch.int64, device=q.device)
    return [out, torch.cat(log_sums)[..., None], state]


@on_cuda
def fused_attn_bwd(*arguments: Any) -> list[Tensor | None]:
    """Gradients by q, k and v; the log-sums may be those of more keys than are here."""
    scale, mask = arguments[2], arguments[12]
    cu_q, cu_k, q, k, v, out, d_out, _, kept, cu_q_padded, cu_k_padded = arguments[17:28]
    heads = q.shape[1]
    log_sums, out, d_out = kept[0].view(-1, heads).float(), out.view(q.shape), d_out.view(q.shape)
    gradients = [torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v)]
    cu_q = cu_q if cu_q_padded is None else cu_q_padded
    cu_k = cu_k if cu_k_padded is None else cu_k_padded
    for queries, keys in _sequences(cu_q, cu_k):
        logits = _logits(q[queries], k[keys], scale, mask)
        shares = (logits - log_sums[queries].t()[..., None]).exp()
        d_o = d_out[queries].float()
        values = v[keys].float().repeat_interleave(heads // v.shape[1], 1)
        d_shares = torch.einsum("qhd,khd->hqk", d_o, values)
        mean = (d_o * out[queries].float()).sum(-1).t()[..., None]
        d_logits = shares * (d_shares - mean) * scale
        wide = k[keys].float().repeat_interleave(heads // k.shape[1], 1)
        gradients[0][queries] = torch.einsum("hqk,khd->qhd", d_logits, wide)
        gradients[1][keys] = _of_kv(torch.einsum("hqk,qhd->khd", d_logits, q[queries].float()), k)
        gradients[2][keys] = _of_kv(torch.einsum("hqk,qhd->khd", shares, d_o), v)
    return [*(g.to(q.dtype) for g in gradients), None, None]


def _of_kv(gradient: Tensor, kv: Tensor) -> Tensor:
    """Summed over the query heads that a KV head serves."""
    return gradient.view(len(gradient), kv.shape[1], -1, kv.shape[-1]).sum(2)


def _halves(cu: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens are in the first and in the second half of their sequence."""
    ends = cu.tolist()
    halves: tuple[list[int], list[int]] = ([], [])
    for start, end in pairwise(ends):
        middle = (start + end) // 2
        halves[0].extend(range(start, middle))
        halves[1].extend(range(middle, end))
    first, second = (torch.tensor(half, dtype=torch.int64, device=cu.device) for half in halves)
    return first, second


@on_cuda
def thd_read_half_tensor(tensor: Tensor, cu: Tensor, half: int) -> Tensor:
    """Half of every sequence; tokens are the third dimension from the end."""
    return tensor.index_select(tensor.dim() - 3, _halves(cu)[half])


@on_cuda
def thd_out_correction(
    out: Tensor,
    part: Tensor,
    log_sums_before: Tensor,
    log_sums: Tensor,
    part_log_sums: Tensor,
    cu: Tensor,
    of_second_half: bool,
    *_: Any,
) -> None:
    """Add what more keys bring: log-sums are `[h, t]`, before them and with them."""
    tokens = _halves(cu)[1] if of_second_half else torch.arange(len(out), device=out.device)
    heads = len(log_sums)
    whole = out.view(len(out), heads, -1)
    after = log_sums[:, tokens]
    old_weight = (log_sums_before[:, tokens] - after).exp().t()[..., None]
    weight = (part_log_sums - after).exp().t()[..., None]
    added = part.reshape(len(tokens), heads, -1).float() * weight
    whole[tokens] = (whole[tokens].float() * old_weight + added).to(out.dtype)


@on_cuda
def thd_second_half_lse_correction(log_sums: Tensor, part: Tensor, cu: Tensor, *_: Any) -> None:
    """The same for the log-sums themselves."""
    second = _halves(cu)[1]
    log_sums[:, second] = torch.logaddexp(log_sums[:, second], part)
