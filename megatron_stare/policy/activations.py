"""What a micro-batch leaves in memory for its backward pass, tensor by tensor.

Legend, of one rank: `T` tokens of a micro-batch, `t` = T / cp of them here, `s` of them between the
matrices (t / tp with sequence parallelism, else t), `h` hidden size, `q` and `kv` channels of
queries and of keys (or values), `f` of the MLP, `b` bytes of an element. Tensor ranks that share KV
heads gather `shared_qkv` channels, those of all ranks; 0 where each has its own.

Two kinds of layers: Transformer Engine's on GPUs, from its source, and this project's on torch,
which the tests hold against what autograd really keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.ops.head_tiles import CHUNK_BYTES, Tile

LayerKind = Literal["transformer_engine", "torch"]
_FLOAT32 = 4
_INDEX = 8


@dataclass(frozen=True, slots=True)
class RankSizes:
    """The legend, in numbers; and heads of this rank."""

    t: int
    s: int
    h: int
    q: int
    kv: int
    shared_qkv: int
    f: int
    heads: int
    kv_heads: int
    b: int

    @classmethod
    def of(
        cls, shape: ModelShape, parallel: ParallelConfig, *, num_tokens: int, element_bytes: int
    ) -> RankSizes:
        """Of a micro-batch of `num_tokens` over all context-parallel ranks, padding included."""
        tp = parallel.tensor
        t = num_tokens // parallel.context
        heads, kv_heads = shape.num_heads // tp, max(shape.num_kv_heads // tp, 1)
        return cls(
            t=t,
            s=t // tp if parallel.sequence else t,
            h=shape.hidden_size,
            q=heads * shape.head_dim,
            kv=kv_heads * shape.head_dim,
            shared_qkv=shape.num_qkv_rows if tp > shape.num_kv_heads else 0,
            f=shape.ffn_size // (1 if shape.moe else tp),
            heads=heads,
            kv_heads=kv_heads,
            b=element_bytes,
        )


def layer_bytes(
    shape: ModelShape,
    sizes: RankSizes,
    *,
    recompute: str,
    kind: LayerKind,
    context: int = 1,
) -> int:
    """Bytes that one layer keeps of one micro-batch."""
    n = sizes
    if recompute == "full":
        return n.s * n.h * n.b  # Its input; the rest is computed again.
    norms = 2 * n.s * (2 * n.h * n.b + _FLOAT32)
    projection = n.t * n.q * n.b
    attention = _attention_bytes(shape, n, context, kind, recompute == "selective")
    return norms + attention + projection + _ffn_bytes(shape, n, kind)


def _attention_bytes(
    shape: ModelShape, n: RankSizes, context: int, kind: LayerKind, is_recomputed: bool
) -> int:
    """Between the products that make queries, keys and values and the one that reads the output."""
    qkv = n.t * (n.shared_qkv or n.q + 2 * n.kv) * n.b
    softmax_sums = n.t * n.heads * _FLOAT32
    norms = n.t * (n.heads + n.kv_heads) * _FLOAT32 if shape.qk_norm else 0
    if kind == "transformer_engine":
        # Values are a view of the product, and so keep all of it; queries and keys are rotated. The
        # output is what the next product reads.
        rotated = n.t * (n.q + n.kv) * n.b
        return qkv + rotated + norms + (0 if is_recomputed else softmax_sums)
    queries = n.t * n.q * n.b
    # Values hold on to the product; out of that of several KV heads, queries are copied.
    product = qkv + (queries if n.kv_heads > 1 else 0)
    if is_recomputed:
        # Norms make new queries and keys.
        normed = n.t * (n.q + n.kv) * n.b if shape.qk_norm else 0
        return product + norms + normed
    before_norm = product if shape.qk_norm else 0
    rotary = 2 * n.t * shape.head_dim * n.b
    # With context parallelism an early and a late chunk of each sample: of its 2 cp, 2 cp + 1.
    seen = n.t if context == 1 else n.t * (2 * context + 1) // 2
    output = n.t * n.q * n.b
    keys_and_values = 2 * seen * n.kv * n.b
    return norms + before_norm + rotary + queries + keys_and_values + output + softmax_sums


def _ffn_bytes(shape: ModelShape, n: RankSizes, kind: LayerKind) -> int:
    """The MLP behind its norm; or experts, each with its share of the tokens."""
    # Gate and up, and their product; on torch also the activation and a copy of up.
    channels = 3 * n.f if kind == "transformer_engine" else 5 * n.f
    if shape.moe is None:
        return n.t * channels * n.b
    # The inputs in the experts' order, the product before and after its weight, and where each
    # token went; of the router, its choice.
    routed = n.s * shape.moe.experts_per_token
    order = 5 * _INDEX + _FLOAT32
    return routed * ((n.h + channels + n.f) * n.b + order + _INDEX + _FLOAT32)


def head_kept_bytes(sizes: RankSizes) -> int:
    """The final norm, and what the head keeps: hidden states of all rows and a few numbers."""
    n = sizes
    final_norm = n.s * (n.h * n.b + _FLOAT32)
    rows = n.t * (n.h * n.b + 3 * _INDEX + 3 * _FLOAT32)
    return final_norm + rows


def head_work_bytes(shape: ModelShape, parallel: ParallelConfig, sizes: RankSizes) -> int:
    """What the head allocates beside that: a chunk of tiles, and the gradient of its rows.

    With sequence parallelism the gathered hidden states, before rows are taken, are as large.
    """
    n = sizes
    side = _tile_side(n.h)
    rows = min(side, n.t)
    columns = min(side, -(-shape.vocab_size // parallel.tensor))
    # As in `ops/head_tiles.py`: logits and exponentials, rows, columns, d_hidden twice.
    chunk = _FLOAT32 * (2 * rows * columns + (3 * rows + columns) * n.h)
    return min(chunk, CHUNK_BYTES["cuda"]) + n.t * n.h * n.b


def _tile_side(hidden_size: int) -> int:
    return Tile.for_head(hidden_size, torch.device("cuda")).rows


def backward_work_bytes(
    shape: ModelShape,
    parallel: ParallelConfig,
    sizes: RankSizes,
    *,
    recompute: str,
    kind: LayerKind,
) -> int:
    """What the backward pass of one layer allocates on top of what is kept.

    The first product of the MLP is the largest: its input, gathered again, the gradients of input
    and output, and that of its weight before it is added to the float32 one. Where tensor ranks
    share KV heads, the gradient of what they gathered may be larger, and its copy in the order of
    the ranks. A layer that is computed again has everything it would have kept.
    """
    n = sizes
    tokens = n.s * shape.moe.experts_per_token if shape.moe else n.t
    weight = 2 * n.f * n.h * n.b
    mlp = tokens * (2 * n.h + 2 * n.f) * n.b + weight
    work = max(mlp, 2 * n.t * n.shared_qkv * n.b)
    if recompute == "full":
        work += layer_bytes(shape, n, recompute="none", kind=kind, context=parallel.context)
    return work
