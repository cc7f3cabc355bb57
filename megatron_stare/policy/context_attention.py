"""Causal attention over packed samples that are split over a context-parallel group.

Keys and values of all ranks are gathered; a rank computes attention for the queries it holds. A
query chunk sees the keys of its sample up to its own end. Samples of one length make one kernel
call for their early chunks and one for their late ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_stare.policy.context import held_chunks, held_tokens


@dataclass(frozen=True, slots=True)
class _Tile:
    """One kernel call: a chunk of `n` samples of the same length.

    queries  int64 [n, chunk]  tokens on this rank
    keys     int64 [n, seen]   tokens in gathered order, rank after rank; last position first
    """

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True, slots=True)
class ContextAttentionPlan:
    """The kernel calls, and where their outputs belong: `slot_of_token` int64 `[T / cp_size]`."""

    tiles: tuple[_Tile, ...]
    slot_of_token: Tensor


def plan_context_attention(
    lengths: Sequence[int], cp_rank: int, cp_size: int, device: torch.device
) -> ContextAttentionPlan:
    """Plan the attention of one rank; `lengths` as of `context.held_tokens`."""
    gathered = torch.cat([held_tokens(lengths, rank, cp_size) for rank in range(cp_size)])
    place_of_token = gathered.argsort()
    starts_of_length: defaultdict[int, list[int]] = defaultdict(list)
    for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
        starts_of_length[length].append(start)
    tiles = []
    for length, starts in starts_of_length.items():
        size, start = length // (2 * cp_size), torch.tensor(starts).unsqueeze(1)
        for index, chunk in enumerate(held_chunks(cp_rank, cp_size)):
            queries = start // cp_size + index * size + torch.arange(size)
            keys = place_of_token[start + torch.arange((chunk + 1) * size).flip(0)]
            tiles.append(_Tile(queries.to(device), keys.to(device)))
    slot_of_token = torch.cat([tile.queries.flatten() for tile in tiles]).argsort()
    return ContextAttentionPlan(tuple(tiles), slot_of_token)


def context_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: ContextAttentionPlan,
    scale: float,
    group: ProcessGroup,
) -> Tensor:
    """Causal attention inside each sample, for the tokens on this rank.

    Shapes are those of `attention.packed_attention`, over the T / cp_size tokens on this rank.
    """
    kv_heads = key.shape[1]
    # The backward sums each rank's gradient of every key and value, and leaves a rank its own.
    gathered = gather_from_sequence_parallel_region(torch.cat([key, value], dim=1), group=group)
    outputs = []
    for tile in plan.tiles:
        k, v = gathered[tile.keys].transpose(1, 2).split(kv_heads, dim=1)
        q = query[tile.queries].transpose(1, 2)
        output = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_lower_right_causal(tile, query),
            scale=scale,
            enable_gqa=q.shape[1] != kv_heads,
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, plan.slot_of_token).flatten(1)


def _lower_right_causal(tile: _Tile, like: Tensor) -> Tensor:
    """0 where the last queries of a sequence may look, else -inf: `[chunk, seen]`.

    Keys come last position first, so an entry depends on row + column only, and the mask is a view
    of chunk + seen - 1 numbers: memory stays linear in the tokens.
    """
    chunk, seen = tile.queries.shape[1], tile.keys.shape[1]
    diagonals = like.new_zeros(chunk + seen - 1)
    diagonals[: chunk - 1] = -torch.inf
    return diagonals.as_strided((chunk, seen), (1, 1))
