"""Megatron-Core's torch_dist checkpoint format, read and written a tensor at a time.

    metadata.json      names the format
    .metadata          every key: shape, dtype, its chunks, and the file, offset and length of each
    __{n}_0.distcp     chunks, each as `torch.save` writes it, one after the other

torch's own writer keeps a tensor of every key in memory and cannot go on with half a checkpoint,
and its reader copies what could be mapped; the files are as simple as this.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
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
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.utils import _create_file_view

from megatron_stare.errors import UserError
from megatron_stare.system.durable_file import DurableFile
from megatron_stare.system.folders import flush
from megatron_stare.system.json_file import read_object
from megatron_stare.system.untrusted import load_data
from megatron_stare.weights.checkpoint_index import INDEX_FILE, read_index
from megatron_stare.weights.finite import check_finite
from megatron_stare.weights.megatron_keys import Place

FORMAT_FILE = "metadata.json"
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
    with DurableFile(path) as file:
        for chunk in chunks:
            extents.append(file.write_tensor(_alone(chunk.contiguous())))
            del chunk
        file.finish()
    return extents


def _alone(chunk: Tensor) -> Tensor:
    """The same memory as a storage of its own: `torch.save` writes whole storages."""
    start = chunk.storage_offset() * chunk.itemsize
    storage = chunk.untyped_storage()[start : start + chunk.nbytes]
    return torch.empty(0, dtype=chunk.dtype).set_(storage, 0, chunk.shape, chunk.stride())


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
        self._metadata = read_index(folder)
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
        """The parameter at a place: mapped, if it was stored in one chunk, or put together.

        Memory: the parameter, or none.

        Raises:
            UserError: a file is missing or damaged, or a value is not finite.
        """
        return self.read_part(place.key, place.offsets, place.sizes).view(place.shape)

    def read_part(self, key: str, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """Any part of a stored tensor, as `read`."""
        stored, wanted = self.tensors[key], _chunk_metadata(offsets, sizes)
        items = create_read_items_for_chunk_list(key, stored, [wanted])
        if sum(item.lengths.numel() for item in items) != wanted.sizes.numel():
            raise UserError(f"{self.folder}: {key} is not whole: chunks are missing")
        try:
            if len(items) == 1:
                return self._mapped(items[0], stored)
            whole = torch.empty(wanted.sizes, dtype=stored.properties.dtype)
            for item in items:
                part = narrow_tensor_by_index(whole, item.dest_offsets, item.lengths)
                part.copy_(self._mapped(item, stored))
        except (OSError, EOFError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.folder}: {key} cannot be read ({reason})") from None
        return whole

    def _mapped(self, item: ReadItem, stored: TensorStorageMetadata) -> Tensor:
        """What is wanted of a chunk, mapped."""
        info = self._metadata.storage_data[item.storage_index]
        path = self.folder / info.relative_path
        with path.open("rb") as stream:
            view = cast(IO[bytes], _create_file_view(stream, info.offset, info.length))
            # Without its data, but with the place where it stands.
            chunk = load_data(view, path, map_location="meta")
        dtype, sizes = stored.properties.dtype, _sizes_at(stored, item.storage_index)
        if not isinstance(chunk, Tensor) or (chunk.dtype, chunk.shape) != (dtype, sizes):
            raise UserError(
                f"{path}: {item.storage_index.fqn} is no tensor of {list(sizes)} in {dtype}, as "
                f"{INDEX_FILE} has it"
            )
        start = info.offset + chunk.untyped_storage()._checkpoint_offset
        file = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        end = start + chunk.untyped_storage().nbytes()
        storage = cast(torch.UntypedStorage, file[start:end])
        if start % chunk.itemsize:
            storage = storage.clone()
        tensor = torch.empty(0, dtype=chunk.dtype)
        tensor.set_(storage, chunk.storage_offset(), chunk.shape, chunk.stride())
        wanted = narrow_tensor_by_index(tensor, item.storage_offsets, item.lengths)
        start_of = list(item.storage_index.offset or ())
        return check_finite(wanted, f"{path}: {item.storage_index.fqn}, from {start_of} on,")


def _sizes_at(stored: TensorStorageMetadata, index: MetadataIndex) -> torch.Size:
    return next(chunk.sizes for chunk in stored.chunks if chunk.offsets == index.offset)


def check_objects(folder: Path) -> None:
    """See that a checkpoint's index, and what it holds beside tensors, are data alone.

    Raises:
        UserError: they name functions or classes, or are damaged.
    """
    index = read_index(folder)
    for key, entry in index.state_dict_metadata.items():
        if isinstance(entry, BytesStorageMetadata):
            info = index.storage_data[MetadataIndex(key)]
            path = folder / info.relative_path
            with path.open("rb") as stream:
                stream.seek(info.offset)
                load_data(io.BytesIO(stream.read(info.length)), f"{path}: {key}")


def _check_format(path: Path) -> None:
    content = read_object(path, "a checkpoint in Megatron-Core's torch_dist format")
    found = content.get("sharded_backend")
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
