"""Safetensors files laid out before any tensor is there, then filled in any order.

A file is a length (8 bytes), a JSON header that places every tensor, and the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Buffer, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.system.direct_io import write_part
from megatron_stare.weights.safetensors_folder import DTYPES, INDEX_FILE, SINGLE_FILE

_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor will be."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size in a file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a tensor's bytes stand."""

    file: str
    offset: int
    spec: TensorSpec


class SafetensorsWriter:
    """The files of a Hugging Face folder.

    Args:
        tensors: every tensor by name, in the order of the files.
        max_shard_bytes: size of a file, unless one tensor alone is larger.
        write_part: puts bytes into a file that is there, at an offset.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorSpec],
        max_shard_bytes: int,
        write_part: Callable[[Path, int, Buffer], None] = write_part,
    ) -> None:
        self._write_part = write_part
        shards = list(_shards(tensors, max_shard_bytes))
        self._headers: dict[str, bytes] = {}
        self._slots: dict[str, _Slot] = {}
        for number, shard in enumerate(shards, start=1):
            file = SINGLE_FILE if len(shards) == 1 else _shard_name(number, len(shards))
            offsets = _offsets(shard)
            self._headers[file] = _header(shard, offsets)
            start = len(self._headers[file])
            for name, spec in shard.items():
                self._slots[name] = _Slot(file, start + offsets[name], spec)

    def create(self, folder: Path) -> None:
        """Write headers and the index; leave files alone that are there already."""
        for file, header in self._headers.items():
            slots = [slot for slot in self._slots.values() if slot.file == file]
            with (folder / file).open("ab") as stream:
                if stream.tell() == 0:
                    stream.write(header)
                    stream.truncate(max(slot.offset + slot.spec.num_bytes for slot in slots))
        if len(self._headers) > 1:
            total = sum(slot.spec.num_bytes for slot in self._slots.values())
            weight_map = {name: slot.file for name, slot in self._slots.items()}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors in their places; any thread may.

        Raises:
            ValueError: a tensor is not what was announced.
        """
        for name, tensor in tensors.items():
            slot = self._slots[name]
            if TensorSpec(tensor.dtype, tuple(tensor.shape)) != slot.spec:
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {slot.spec}")
            content = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            self._write_part(folder / slot.file, slot.offset, content)

    def files_of(self, names: Mapping[str, object]) -> set[str]:
        """The names of the files that hold these tensors."""
        return {self._slots[name].file for name in names}


def _shards(
    tensors: Mapping[str, TensorSpec], max_shard_bytes: int
) -> Iterator[dict[str, TensorSpec]]:
    shard: dict[str, TensorSpec] = {}
    num_bytes = 0
    for name, spec in tensors.items():
        num_bytes += spec.num_bytes
        if shard and num_bytes > max_shard_bytes:
            yield shard
            shard, num_bytes = {}, spec.num_bytes
        shard[name] = spec
    yield shard


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _offsets(shard: Mapping[str, TensorSpec]) -> dict[str, int]:
    """From the end of the header; wider dtypes first, so that every tensor is aligned."""
    offsets: dict[str, int] = {}
    end = 0
    for name, spec in sorted(shard.items(), key=lambda item: -item[1].dtype.itemsize):
        offsets[name] = end
        end += spec.num_bytes
    return offsets


def _header(shard: Mapping[str, TensorSpec], offsets: Mapping[str, int]) -> bytes:
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name in offsets:
        spec, start = shard[name], offsets[name]
        content[name] = {
            "dtype": _CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, start + spec.num_bytes],
        }
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
