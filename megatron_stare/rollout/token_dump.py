"""The tokens of a step's first groups as a Parquet file: a row a token, a row group a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from megatron_stare.data.pieces import Pieces
from megatron_stare.system.folders import replacing_file
from megatron_stare.turns import Response
from megatron_stare.types import Group, Sample

OF_POLICY = ("logprob", "entropy", "advantage", "weight", "ratio")
"""Numbers that the policy's own tokens have, and no others."""


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """What a step has decided of the tokens of its first groups, `[n]` each, in batch order.

    num_groups  of the batch, whose judged samples they are of
    numbers     float32, those of `OF_POLICY`
    counted     bool: what the loss sums
    flags       bool, by column and name: `{"set": {"L+": ...}, "clip": {"clip_low": ...}}`
    """

    num_groups: int
    numbers: Mapping[str, Tensor]
    counted: Tensor
    flags: Mapping[str, Mapping[str, Tensor]]


def dump_tokens(
    path: Path, step: int, groups: Sequence[Group], columns: TokenColumns, pieces: Pieces
) -> None:
    """Write the tokens of a step; the file appears when it is complete, or not.

    Args:
        groups: those that the columns are of: the first of the batch.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path.parent.mkdir(exist_ok=True)  # A run's folder that is gone is not made again.
    start = 0
    with (
        replacing_file(path) as unfinished,
        pq.ParquetWriter(unfinished, _SCHEMA, compression="zstd") as writer,
    ):
        for number, group in enumerate(groups):
            samples = group.judged.samples
            size = sum(len(sample.token_ids) for sample in samples)
            known = _of_rollout(samples, pieces) | _of_step(columns, slice(start, start + size))
            known |= {"step": np.full(size, step), "group": np.full(size, number)}
            writer.write_table(_table(known))
            start += size


def _of_rollout(samples: Sequence[Sample], pieces: Pieces) -> dict[str, Any]:
    """What rank 0 knows of the tokens of a group."""
    lengths = [len(sample.token_ids) for sample in samples]

    def of_tokens(values: Sequence[Any]) -> np.ndarray:
        return np.repeat(np.array(values), lengths)

    responses = [Response(len(sample.token_ids), sample.turns) for sample in samples]
    turns = [response.of_tokens(range(len(response.own)), 0) for response in responses]
    return {
        "uid": of_tokens([sample.prompt.uid for sample in samples]),
        "index": of_tokens([sample.index for sample in samples]),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "turn": [*chain.from_iterable(turns)],
        "token_id": [*chain.from_iterable(sample.token_ids for sample in samples)],
        "text": [piece for sample in samples for piece in pieces.of(sample.token_ids)],
        "mask": np.array([*chain.from_iterable(sample.loss_mask for sample in samples)], bool),
        "rollout_logprob": [*chain.from_iterable(sample.logprobs for sample in samples)],
    }


def _of_step(columns: TokenColumns, tokens: slice) -> dict[str, Any]:
    numbers = {name: values[tokens].numpy() for name, values in columns.numbers.items()}
    flags = {name: _names(which, tokens) for name, which in columns.flags.items()}
    return numbers | flags | {"counted": columns.counted[tokens].numpy()}


def _names(flags: Mapping[str, Tensor], tokens: slice) -> list[str]:
    """What is said of each token, such as `L+`, or nothing."""
    stacked = np.array([which[tokens].numpy() for which in flags.values()], dtype=bool)
    if not stacked.any():
        return [""] * len(range(*tokens.indices(tokens.stop)))
    names = [*flags]
    return [",".join(names[i] for i in np.flatnonzero(said)) for said in stacked.T]


def _table(known: Mapping[str, Any]) -> pa.Table:
    unknown = dict.fromkeys(OF_POLICY, ~known["mask"])
    arrays = []
    for field in _SCHEMA:
        value, mask = known[field.name], unknown.get(field.name)
        if pa.types.is_floating(field.type):
            value = np.array(value, np.float32)
            mask = np.isnan(value) if mask is None else mask
        arrays.append(pa.array(value, field.type, mask=mask))
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("uid", pa.string()),
        ("group", pa.int32()),
        ("index", pa.int32()),
        ("position", pa.int32()),
        ("turn", pa.int32()),
        ("token_id", pa.int32()),
        ("text", pa.string()),
        ("mask", pa.bool_()),
        ("counted", pa.bool_()),
        ("logprob", pa.float32()),
        ("entropy", pa.float32()),
        ("rollout_logprob", pa.float32()),
        ("advantage", pa.float32()),
        ("weight", pa.float32()),
        ("set", pa.string()),
        ("ratio", pa.float32()),
        ("clip", pa.string()),
    ]
)
