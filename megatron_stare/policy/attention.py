"""Causal attention over packed samples by torch's scaled_dot_product_attention.

Samples of similar length become a block: a right-padded batch `[samples, length]`, one kernel call.
Padding stands after each sample, where no token of the sample looks under a causal mask, so neither
masks nor samples mix; what is computed at padding is dropped, and its gradient is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

# A sample joins a block if it fills this share of its length, or lacks only a few tokens of it.
_FILL, _SLACK_TOKENS = 0.75, 16


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How T packed tokens lie in P slots of padded blocks.

    token_of_slot  int64 [P]  a padding slot repeats the last token of its sample
    slot_of_token  int64 [T]
    blocks         (samples, length) of each block; their products sum to P
    """

    token_of_slot: Tensor
    slot_of_token: Tensor
    blocks: tuple[tuple[int, int], ...]


def plan_attention(lengths: Sequence[int], device: torch.device) -> AttentionPlan:
    """Group samples, packed one after another with these lengths, into blocks."""
    starts = [0, *accumulate(lengths)]
    longest_first = sorted(range(len(lengths)), key=lambda sample: -lengths[sample])
    blocks: list[list[int]] = []
    for sample in longest_first:
        longest = lengths[blocks[-1][0]] if blocks else 0
        if lengths[sample] < min(_FILL * longest, longest - _SLACK_TOKENS) or not blocks:
            blocks.append([])
        blocks[-1].append(sample)
    tokens, is_token = zip(*(_lay_out(block, starts, lengths) for block in blocks), strict=True)
    token_of_slot, is_token = torch.cat(tokens), torch.cat(is_token)
    slot_of_token = torch.empty(starts[-1], dtype=torch.int64)
    slot_of_token[token_of_slot[is_token]] = is_token.nonzero().squeeze(1)
    return AttentionPlan(
        token_of_slot.to(device),
        slot_of_token.to(device),
        tuple((len(block), lengths[block[0]]) for block in blocks),
    )


def _lay_out(
    block: Sequence[int], starts: Sequence[int], lengths: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The token of each slot of a block, and whether it is no padding, `[samples * length]`."""
    length = torch.tensor([lengths[sample] for sample in block]).unsqueeze(1)
    start = torch.tensor([starts[sample] for sample in block]).unsqueeze(1)
    offset = torch.arange(int(length.max()))
    return (start + offset.minimum(length - 1)).flatten(), (offset < length).flatten()


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float
) -> Tensor:
    """Causal attention inside each sample.

    Args:
        query: `[T, heads, head_dim]`.
        key, value: `[T, kv_heads, head_dim]`; `kv_heads` divides `heads`.
        scale: multiplies the scores before the softmax.

    Returns:
        `[T, heads * head_dim]`.
    """
    sizes = [samples * length for samples, length in plan.blocks]
    padded = [x.index_select(0, plan.token_of_slot).split(sizes) for x in (query, key, value)]
    outputs = []
    for block, *qkv in zip(plan.blocks, *padded, strict=True):
        q, k, v = (x.unflatten(0, block).transpose(1, 2) for x in qkv)
        output = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, plan.slot_of_token).flatten(1)
