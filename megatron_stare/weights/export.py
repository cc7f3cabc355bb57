"""Full Hugging Face tensors streamed out of a model that is split over TP, PP and EP.

For each bucket of parameters, in forward order:

    the stage that owns it   packs its shards into one flat buffer
    pipeline group           broadcast of the buffer from that stage
    expert group             broadcast from the rank that has these experts; others have the rest
    tensor group             all-gather of the buffers of its ranks; an expert is whole already
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

from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.rules import Entry, check_coverage


@dataclass(frozen=True, slots=True)
class _Piece:
    """A parameter to export, who holds it, and its shape on a rank."""

    entry: Entry
    stage: int
    expert_rank: int | None
    """The rank of the expert group that holds it; None where all do."""
    shape: tuple[int, ...]

    @property
    def holder(self) -> tuple[int, int | None]:
        return self.stage, self.expert_rank

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


def export_hf_tensors(
    params: Mapping[str, Tensor],
    shape: ModelShape,
    *,
    tp_group: ProcessGroup | None,
    pp_group: ProcessGroup | None,
    ep_group: ProcessGroup | None = None,
    bucket_bytes: int = 1 << 29,
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model once, by Hugging Face name, in the parameters' dtype and device.

    Collective over the groups: each of their ranks must exhaust the iterator, and each gets the
    same tensors in the same order. Tied embeddings come once; padded vocabulary rows are cut. The
    tensors do not alias the parameters.

    Args:
        params: this rank's parameters by Megatron name, global layer and expert indices, of one
            dtype.
        tp_group: tensor-parallel group; None stands for a group of one.
        pp_group: pipeline-parallel group; None stands for a group of one.
        ep_group: expert-parallel group; None stands for a group of one.
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
    pieces = _pieces(params.keys(), entries, tp_size, pp_group, ep_group)
    for bucket in _buckets(pieces, max_elements):
        flat = _pack(bucket, params, like, pp_group, ep_group)
        # Tensor-parallel ranks do not split an expert.
        flats = [flat] if bucket[0].expert_rank is not None else _gather(flat, tp_group)
        yield from _merge(bucket, flats)


def _pieces(
    names: Set[str],
    entries: Mapping[str, Entry],
    tp_size: int,
    pp_group: ProcessGroup | None,
    ep_group: ProcessGroup | None,
) -> list[_Piece]:
    """Everything to export, in order, the same on every rank."""
    by_rank = _all_gather(_all_gather(set(names), pp_group), ep_group)
    holder = {
        name: (stage, rank)
        for rank, stages in enumerate(by_rank)
        for stage, held in enumerate(stages)
        for name in held
    }
    exported = [entry for entry in entries.values() if not entry.is_copy]
    if missing := sorted(entry.megatron for entry in exported if entry.megatron not in holder):
        raise ValueError(f"no rank holds the parameters {missing}")
    return [_piece(entry, *holder[entry.megatron], tp_size) for entry in exported]


def _piece(entry: Entry, stage: int, expert_rank: int, tp_size: int) -> _Piece:
    only_there = None if entry.expert is None else expert_rank
    return _Piece(entry, stage, only_there, entry.shard_shape(tp_size))


def _all_gather[T](value: T, group: ProcessGroup | None) -> list[T]:
    """The values of all ranks of a group, in rank order."""
    if group is None:
        return [value]
    values = [value] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values


def _buckets(pieces: Iterable[_Piece], max_elements: int) -> Iterator[list[_Piece]]:
    """Runs of pieces of one holder with at most `max_elements` on a rank, or one alone."""
    bucket: list[_Piece] = []
    num_elements = 0
    for piece in pieces:
        num_elements += piece.num_elements
        if bucket and (piece.holder != bucket[0].holder or num_elements > max_elements):
            yield bucket
            bucket, num_elements = [], piece.num_elements
        bucket.append(piece)
    yield bucket


def _pack(
    bucket: Sequence[_Piece],
    params: Mapping[str, Tensor],
    like: Tensor,
    pp_group: ProcessGroup | None,
    ep_group: ProcessGroup | None,
) -> Tensor:
    """The bucket's parameters on this tensor-parallel rank as one flat tensor, everywhere."""
    stage, expert_rank = bucket[0].holder
    num_elements = sum(piece.num_elements for piece in bucket)
    flat = torch.empty(num_elements, dtype=like.dtype, device=like.device)
    if expert_rank is None or _rank(ep_group) == expert_rank:
        if _rank(pp_group) == stage:
            shards = [params[piece.entry.megatron].detach().reshape(-1) for piece in bucket]
            torch.cat(shards, out=flat)
        if pp_group is not None:
            dist.broadcast(flat, group=pp_group, group_src=stage)
    if expert_rank is not None and ep_group is not None:
        dist.broadcast(flat, group=ep_group, group_src=expert_rank)
    return flat


def _rank(group: ProcessGroup | None) -> int:
    return 0 if group is None else group.rank()


def _gather(flat: Tensor, tp_group: ProcessGroup | None) -> Sequence[Tensor]:
    """The flat tensors of all tensor-parallel ranks, in rank order."""
    if tp_group is None:
        return [flat]
    # Of one tensor: into a list of them, NCCL gathers by way of a copy as large.
    flats = flat.new_empty(tp_group.size() * flat.numel())
    dist.all_gather_single(flats, flat, group=tp_group)
    return flats.view(tp_group.size(), -1).unbind()


def _merge(bucket: Sequence[_Piece], flats: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The full tensors of a bucket, one parameter at a time."""
    start = 0
    for piece in bucket:
        part = slice(start, start + piece.num_elements)
        start = part.stop
        shards = [flat[part].view(piece.shape) for flat in flats]
        yield from piece.entry.merge(shards).items()
