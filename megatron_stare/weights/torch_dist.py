"""Megatron-Core's torch_dist checkpoint format, read and written a tensor at a time.

    metadata.json      names the format
    .metadata          every key: shape, dtype, its chunks, and the file, offset and length of each
    __{n}_0.distcp     chunks, each as `torch.save` writes it, one after the other

torch's own writer keeps a tensor of every key in memory and cannot go on with half a checkpoint;
its files are as simple as this. Reading is torch's own.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystemReader,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from megatron_stare.errors import UserError
from megatron_stare.weights.folders import flush
from megatron_stare.weights.megatron_keys import Place

FORMAT_FILE, INDEX_FILE = "metadata.json", ".metadata"
FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
COMMON_STATE = "common_state/shard_0_1"
"""What Megatron stores beside tensors: nothing, for a model alone."""

Extent = tuple[int, int]
"""Offset and length in a file, bytes."""


def file_name(number: int) -> str:
    """The name of a file of chunks; torch's writers number them by rank."""
    return f"__{number}_0.distcp"


def write_chunks(path: Path, chunks: Iterable[Tensor]) -> list[Extent]:
    """Write a file of chunks, one in memory at a time, and have it reach the disk."""
    extents: list[Extent] = []
    with path.open("wb") as stream:
        for chunk in chunks:
            start = stream.tell()
            # `torch.save` would write all of the storage that a chunk is a view of.
            alone = chunk.untyped_storage().nbytes() == chunk.nbytes and chunk.is_contiguous()
            torch.save(chunk if alone else chunk.contiguous().clone(), stream)
            extents.append((start, stream.tell() - start))
            del chunk
        stream.flush()
        os.fsync(stream.fileno())
    return extents


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A parameter in a file."""

    place: Place
    dtype: torch.dtype
    file: str
    extent: Extent


def write_index(folder: Path, chunks: Sequence[StoredChunk], *, objects_file: str) -> None:
    """Make the files of chunks a checkpoint, which Megatron-Core loads in any layout.

    Args:
        chunks: every parameter of the model.
        objects_file: name of a file to write for what is not a tensor.
    """
    none, common = _write_objects(folder / objects_file, [None], [{}])
    storage: dict[MetadataIndex, _StorageInfo] = {}
    metadata: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    for chunk in chunks:
        place = chunk.place
        tensor = metadata.setdefault(place.key, _tensor_metadata(chunk))
        assert isinstance(tensor, TensorStorageMetadata)
        index = MetadataIndex(place.key, place.offsets, len(tensor.chunks))
        tensor.chunks.append(_chunk_metadata(place.offsets, place.sizes))
        storage[index] = _StorageInfo(chunk.file, *chunk.extent)
        if place.extra_state is not None:
            # One record serves all layers.
            metadata[place.extra_state] = BytesStorageMetadata()
            storage[MetadataIndex(place.extra_state)] = _StorageInfo(objects_file, *none)
    metadata[COMMON_STATE] = BytesStorageMetadata()
    storage[MetadataIndex(COMMON_STATE)] = _StorageInfo(objects_file, *common)
    content = Metadata(
        dict(metadata),
        storage_data=storage,
        storage_meta=StorageMeta(),
        version=CURRENT_DCP_VERSION,
    )
    (folder / INDEX_FILE).write_bytes(pickle.dumps(content))
    (folder / FORMAT_FILE).write_text(json.dumps(FORMAT))
    for name in (INDEX_FILE, FORMAT_FILE, objects_file):
        flush(folder / name)


def _write_objects(path: Path, *values: Any) -> list[Extent]:
    extents: list[Extent] = []
    with path.open("wb") as stream:
        for value in values:
            start = stream.tell()
            buffer = io.BytesIO()
            torch.save(value, buffer)
            stream.write(buffer.getbuffer())
            extents.append((start, stream.tell() - start))
    return extents


def _tensor_metadata(chunk: StoredChunk) -> TensorStorageMetadata:
    properties = TensorProperties(dtype=chunk.dtype)
    return TensorStorageMetadata(properties, torch.Size(chunk.place.global_shape), [])


def _chunk_metadata(offsets: Sequence[int], sizes: Sequence[int]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


class Checkpoint:
    """A checkpoint opened for reading, whatever layout wrote it.

    Raises:
        UserError: the folder is not a torch_dist checkpoint, or its index is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _check_format(folder / FORMAT_FILE)
        self._reader = FileSystemReader(folder)
        try:
            self._metadata = self._reader.read_metadata()
        except (OSError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
            raise UserError(f"{folder / INDEX_FILE}: damaged ({error})") from None
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        _check_files(folder, self._metadata.storage_data.values())

    @cached_property
    def tensors(self) -> Mapping[str, TensorStorageMetadata]:
        """Shape and dtype of every tensor by key."""
        stored = self._metadata.state_dict_metadata.items()
        return {key: tensor for key, tensor in stored if isinstance(tensor, TensorStorageMetadata)}

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold data."""
        names = {info.relative_path for info in self._metadata.storage_data.values()}
        return [self.folder / name for name in sorted(names)]

    def read(self, place: Place) -> Tensor:
        """The parameter at a place, put together from however many chunks it was stored in.

        Memory: the parameter, and one chunk.

        Raises:
            UserError: a file is missing or damaged.
        """
        return self.read_part(place.key, place.offsets, place.sizes).view(place.shape)

    def read_part(self, key: str, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """Any part of a stored tensor, as `read`."""
        stored = self.tensors[key]
        destination = torch.empty(tuple(sizes), dtype=stored.properties.dtype)
        wanted = [_chunk_metadata(offsets, sizes)]
        items = create_read_items_for_chunk_list(key, stored, wanted)
        if sum(item.lengths.numel() for item in items) != destination.numel():
            raise UserError(f"{self.folder}: {key} is not whole: chunks are missing")
        try:
            self._reader.read_data(LoadPlan(items), _Into(destination))
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.folder}: {key} cannot be read ({reason})") from None
        return destination


class _Into(DefaultLoadPlanner):
    """Reads into one tensor."""

    def __init__(self, destination: Tensor) -> None:
        super().__init__()
        self._destination = destination

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._destination


def _check_format(path: Path) -> None:
    try:
        found = json.loads(path.read_text())["sharded_backend"]
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; expected a checkpoint in Megatron-Core's torch_dist format"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: malformed; expected what Megatron-Core writes") from None
    if found != FORMAT["sharded_backend"]:
        raise UserError(f"{path}: sharded_backend={found!r}, expected 'torch_dist'")


def _check_files(folder: Path, extents: Iterable[_StorageInfo]) -> None:
    ends: dict[str, int] = defaultdict(int)
    for info in extents:
        ends[info.relative_path] = max(ends[info.relative_path], info.offset + info.length)
    for name, end in ends.items():
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: no such file, but {INDEX_FILE} lists it")
        if (size := (folder / name).stat().st_size) < end:
            raise UserError(f"{folder / name}: cut short at {size} bytes, expected {end}")
