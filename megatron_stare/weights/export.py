"""Full Hugging Face tensors streamed out of a model that is split over TP and PP.

For each bucket of parameters, in forward order:

    the stage that owns it   packs its shards into one flat buffer
    pipeline group           broadcast of the buffer from that stage
    tensor group             all-gather of the buffers of its ranks
    every rank               merges the shards of one parameter at a time and yields the tensors

so only 1/P of the bytes crosses the pipeline group, usually the slower link.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_stare.weights.hf_config import ModelShape
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.rules import Entry, check_coverage


@dataclass(frozen=True, slots=True)
class _Piece:
    """A parameter to export, the pipeline stage that holds it, and its shape on a rank."""

    entry: Entry
    stage: int
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def export_hf_tensors(
    params: Mapping[str, Tensor],
    shape: ModelShape,
    *,
    tp_group: ProcessGroup | None,
    pp_group: ProcessGroup | None,
    bucket_bytes: int = 1 << 29,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model once, by Hugging Face name, in the parameters' dtype and device.

    Collective over both groups: each of their ranks must exhaust the iterator, and each gets the
    same tensors in the same order. Tied embeddings come once; padded vocabulary rows are cut. The
    tensors do not alias the parameters.

    Args:
        params: this stage's parameters by Megatron name, global layer indices, of one dtype.
        tp_group: tensor-parallel group; None stands for a group of one.
        pp_group: pipeline-parallel group; None stands for a group of one.
        bucket_bytes: memory of an exchange, unless one parameter alone takes more. A rank holds
            that much, 1/P of it again, and the tensors of one parameter.

    Raises:
        ValueError: the stages' parameters are not those of the family's name table.
    """
    entries = model_entries(shape)
    tp_size = 1 if tp_group is None else tp_group.size()
    check_coverage(params, entries, tp_size)
    like = next(iter(params.values()))
    max_elements = bucket_bytes // like.element_size() // tp_size
    for bucket in _buckets(_pieces(params.keys(), entries, tp_size, pp_group), max_elements):
        flat = _pack(bucket, params, like, pp_group)
        yield from _merge(bucket, _gather(flat, tp_group))


def _pieces(
    names: Set[str], entries: Mapping[str, Entry], tp_size: int, pp_group: ProcessGroup | None
) -> list[_Piece]:
    """Everything to export, in order, the same on every rank."""
    stages: list[Set[str]] = [names]
    if pp_group is not None:
        stages = [set()] * pp_group.size()
        dist.all_gather_object(stages, set(names), group=pp_group)
    owner = {name: stage for stage, held in enumerate(stages) for name in held}
    exported = [entry for entry in entries.values() if not entry.is_copy]
    if missing := sorted(entry.megatron for entry in exported if entry.megatron not in owner):
        raise ValueError(f"no pipeline stage holds the parameters {missing}")
    return [_Piece(entry, owner[entry.megatron], entry.shard_shape(tp_size)) for entry in exported]


def _buckets(pieces: Iterable[_Piece], max_elements: int) -> Iterator[list[_Piece]]:
    """Runs of pieces of one stage with at most `max_elements` on a rank, or one alone."""
    bucket: list[_Piece] = []
    num_elements = 0
    for piece in pieces:
        num_elements += piece.num_elements
        if bucket and (piece.stage != bucket[0].stage or num_elements > max_elements):
            yield bucket
            bucket, num_elements = [], piece.num_elements
        bucket.append(piece)
    yield bucket


def _pack(
    bucket: Sequence[_Piece],
    params: Mapping[str, Tensor],
    like: Tensor,
    pp_group: ProcessGroup | None,
) -> Tensor:
    """The bucket's parameters on this tensor-parallel rank as one flat tensor, on every stage."""
    stage = bucket[0].stage
    num_elements = sum(piece.num_elements for piece in bucket)
    flat = torch.empty(num_elements, dtype=like.dtype, device=like.device)
    if pp_group is None or pp_group.rank() == stage:
        shards = [params[piece.entry.megatron].detach().reshape(-1) for piece in bucket]
        torch.cat(shards, out=flat)
    if pp_group is not None:
        dist.broadcast(flat, group=pp_group, group_src=stage)
    return flat


def _gather(flat: Tensor, tp_group: ProcessGroup | None) -> list[Tensor]:
    """The flat tensors of all tensor-parallel ranks, in rank order."""
    if tp_group is None:
        return [flat]
    flats = [torch.empty_like(flat) for _ in range(tp_group.size())]
    dist.all_gather(flats, flat, group=tp_group)
    return flats


def _merge(bucket: Sequence[_Piece], flats: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The full tensors of a bucket, one parameter at a time."""
    start = 0
    for piece in bucket:
        part = slice(start, start + piece.num_elements)
        start = part.stop
        shards = [flat[part].view(piece.shape) for flat in flats]
        yield from piece.entry.merge(shards).items()
