"""How the tensors behind one Megatron parameter are laid out over tensor-parallel ranks.

A layout is a pair of mirror images, `shard` (Hugging Face tensors to the parameter of one rank) and
`merge` (the parameters of all ranks back to the tensors), so that merging all shards gives the
tensors back bit for bit. Sources of `shard` only need `.shape` and slicing: a lazy tensor of a
file reads just the part its rank holds.

Legend: P tensor-parallel size, V vocabulary, h hidden size, g KV groups, d head dimension, `*`
trailing dimensions (the input size of a weight, nothing for a bias).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from megatron_stare.model_shape import ModelShape

Shape = tuple[int, ...]


class Source(Protocol):
    """A tensor, or something that reads as one when sliced."""

    @property
    def shape(self) -> Shape:
        """The full shape."""
        ...

    def __getitem__(self, index: Any, /) -> Tensor:
        """The part that `index`, one slice per dimension, selects."""
        ...


class Layout(Protocol):
    """One way to place the tensors of a parameter."""

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """The shape of the parameter on each rank, from those of the full tensors."""
        ...

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """The parameter of rank `tp_rank` of `tp_size`."""
        ...

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """The full tensors from the parameters of all ranks, in rank order."""
        ...


@dataclass(frozen=True, slots=True)
class Replicated:
    """The same tensor on every rank: norms, and biases added after a reduction."""

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """`[*]`."""
        return shapes[0]

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """`[*]` to `[*]`."""
        return sources[0][:]

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """`P x [*]` to `[*]`."""
        return [shards[0]]


@dataclass(frozen=True, slots=True)
class RowParallel:
    """A linear layer split along its input, dimension 1 of the weight."""

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """`[out, in/P]`."""
        outputs, inputs = shapes[0]
        return outputs, inputs // tp_size

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """`[out, in]` to `[out, in/P]`."""
        return sources[0][:, _part(sources[0].shape[1], tp_rank, tp_size)]

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """`P x [out, in/P]` to `[out, in]`."""
        return [_joined(shards, dim=1)]


@dataclass(frozen=True, slots=True)
class GateUp:
    """Gate and up projections split along their outputs; a rank stacks its gate part on its up."""

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """`[2 * ffn/P, *]`."""
        return _stacked(shapes, tp_size)

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """Two of `[ffn, *]` to `[2 * ffn/P, *]`."""
        return torch.cat([source[_part(source.shape[0], tp_rank, tp_size)] for source in sources])

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """`P x [2 * ffn/P, *]` to two of `[ffn, *]`."""
        gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
        return [_joined(gates), _joined(ups)]


@dataclass(frozen=True, slots=True)
class WholeGateUp:
    """Gate and up projections of an expert, which one rank holds whole: the gate on the up."""

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """`[2 * ffn, *]`."""
        return _stacked(shapes, 1)

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """Two of `[ffn, *]` to `[2 * ffn, *]`."""
        return torch.cat([source[:] for source in sources])

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """`P x [2 * ffn, *]` to two of `[ffn, *]`."""
        return list(shards[0].chunk(2))


@dataclass(frozen=True, slots=True)
class VocabParallel:
    """Rows of the vocabulary, padded with zero rows to a multiple of P."""

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """`[ceil(V/P), h]`."""
        vocab, hidden = shapes[0]
        return -(-vocab // tp_size), hidden

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """`[V, h]` to `[ceil(V/P), h]`."""
        rows = -(-shape.vocab_size // tp_size)
        start = min(tp_rank * rows, shape.vocab_size)
        part = sources[0][start : min(start + rows, shape.vocab_size)]
        missing = rows - part.shape[0]
        return pad(part, (0, 0, 0, missing)) if missing else part

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """`P x [ceil(V/P), h]` to `[V, h]`."""
        return [_joined(shards)[: shape.vocab_size]]


@dataclass(frozen=True, slots=True)
class GroupedQkv:
    """q, k and v interleaved by KV group: each group's query heads, then its key, then its value.

    Ranks hold equal parts of that: whole groups, or, where they outnumber the groups, a part of one
    each, wherever in it the cuts fall. A rank reads the whole group of which it holds a part.
    """

    def shard_shape(self, shapes: Sequence[Shape], tp_size: int) -> Shape:
        """`[(heads + 2g) * d / P, *]`."""
        return _stacked(shapes, tp_size)

    def shard(
        self, sources: Sequence[Source], tp_rank: int, tp_size: int, shape: ModelShape
    ) -> Tensor:
        """`[heads * d, *]`, `[g * d, *]`, `[g * d, *]` to `[(heads + 2g) * d / P, *]`."""
        holders = max(1, tp_size // shape.num_kv_heads)  # Ranks that share a group.
        run, num_runs = tp_rank // holders, tp_size // holders
        groups = shape.num_kv_heads // num_runs
        parts = [source[_part(source.shape[0], run, num_runs)] for source in sources]
        rows = torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)
        return rows[_part(rows.shape[0], tp_rank % holders, holders)]

    def merge(self, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
        """`P x [(heads + 2g) * d / P, *]` to `[heads * d, *]`, `[g * d, *]`, `[g * d, *]`."""
        query_rows = shape.num_heads // shape.num_kv_heads * shape.head_dim
        by_group = _joined(shards).unflatten(0, (shape.num_kv_heads, -1))
        parts = by_group.split([query_rows, shape.head_dim, shape.head_dim], dim=1)
        return [part.flatten(0, 1) for part in parts]


def _part(size: int, tp_rank: int, tp_size: int) -> slice:
    """The rank's contiguous part of a dimension."""
    part = size // tp_size
    return slice(tp_rank * part, (tp_rank + 1) * part)


def _joined(shards: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The shards of all ranks as one; that of a single rank is not copied."""
    return shards[0] if len(shards) == 1 else torch.cat(list(shards), dim=dim)


def _stacked(shapes: Sequence[Shape], tp_size: int) -> Shape:
    """A rank's parts of several tensors, one on the other."""
    return sum(shape[0] for shape in shapes) // tp_size, *shapes[0][1:]
