"""The index of a torch_dist checkpoint, `.metadata`: a pickle, read as data (`untrusted`).

What is in it, besides the plans of the save, which nobody reads again:

    state_dict_metadata   by key: BytesStorageMetadata, or TensorStorageMetadata of its chunks
    storage_data          by MetadataIndex (key, offsets): file, offset and length
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_stare.errors import UserError
from megatron_stare.system.reading import check_files, open_file
from megatron_stare.system.untrusted import Record, RecordUnpickler

INDEX_FILE = ".metadata"

_METADATA = "torch.distributed.checkpoint.metadata"
_OF_METADATA = (
    *("Metadata", "MetadataIndex", "StorageMeta", "BytesStorageMetadata", "TensorStorageMetadata"),
    *("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING"),
)
_OF_PLANS = ("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData")
_OLD_PROPERTIES = "torch.distributed._shard.sharded_tensor.metadata"
"""Where they were before torch 2.3."""
_DTYPES = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
ADMITTED = frozenset(
    {
        *((_METADATA, name) for name in _OF_METADATA),
        *(("torch.distributed.checkpoint.planner", name) for name in _OF_PLANS),
        *((_OLD_PROPERTIES, name) for name in ("TensorProperties", "MEM_FORMAT_ENCODING")),
        *(
            ("torch.distributed.checkpoint.filesystem", n)
            for n in ("_StorageInfo", "_StoragePrefix")
        ),
        *(("torch", name) for name in ("Size", *_DTYPES)),
        ("torch.serialization", "_get_layout"),
        *(("pathlib", name) for name in ("PosixPath", "PurePosixPath")),
        ("pathlib._local", "PosixPath"),
        ("collections", "OrderedDict"),
    }
)
"""What Megatron-Core and torch, of any version that stores this format, name in an index."""


def read_index(folder: Path) -> Metadata:
    """What a checkpoint holds, and where.

    Raises:
        UserError: the file cannot be read, names anything but what indices consist of, or is none;
            or a pipe is in the place of any file.
    """
    check_files(folder)
    path = folder / INDEX_FILE
    try:
        with open_file(path) as file:
            index = RecordUnpickler(file, path, ADMITTED).load()
        return _metadata(index)
    except UserError:
        raise
    except Exception as error:  # Whatever a malformed pickle makes Python raise.
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UserError(f"{path}: damaged ({reason})") from None


def _metadata(record: Any) -> Metadata:
    fields = _fields(record, "Metadata")
    entries = {_text(k): _entry(entry) for k, entry in _items(fields["state_dict_metadata"])}
    places = {_index(index): _storage_info(info) for index, info in _items(fields["storage_data"])}
    for key, entry in entries.items():
        if not places.keys() >= set(_indices(key, entry)):
            raise ValueError(f"it does not say where {key} is")
    return Metadata(
        dict(entries),
        storage_data=places,
        storage_meta=StorageMeta(),
        version=fields.get("version"),
    )


def _indices(
    key: str, entry: TensorStorageMetadata | BytesStorageMetadata
) -> Iterator[MetadataIndex]:
    """Of its parts, by which their places are found."""
    if isinstance(entry, BytesStorageMetadata):
        yield MetadataIndex(key)
        return
    for chunk in entry.chunks:
        yield MetadataIndex(key, chunk.offsets)


def _entry(record: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if _name(record) == "BytesStorageMetadata":
        return BytesStorageMetadata()
    fields = _fields(record, "TensorStorageMetadata")
    size = _size(fields["size"])
    return TensorStorageMetadata(
        TensorProperties(dtype=_dtype(fields["properties"])),
        size,
        [_chunk(chunk, size) for chunk in fields["chunks"]],
    )


def _chunk(record: Any, size: torch.Size) -> ChunkStorageMetadata:
    fields = _fields(record, "ChunkStorageMetadata")
    offsets, sizes = _size(fields["offsets"]), _size(fields["sizes"])
    ends = [offset + extent for offset, extent in zip(offsets, sizes, strict=True)]
    if any(end > whole for end, whole in zip(ends, size, strict=True)):
        raise ValueError(f"a chunk ends at {ends} of a tensor of {list(size)}")
    return ChunkStorageMetadata(offsets, sizes)


def _index(record: Any) -> MetadataIndex:
    fields = _fields(record, "MetadataIndex")
    offset = fields.get("offset")
    return MetadataIndex(_text(fields["fqn"]), None if offset is None else _size(offset))


def _storage_info(record: Any) -> _StorageInfo:
    fields = _fields(record, "_StorageInfo")
    name = _text(fields["relative_path"])
    if PurePath(name).name != name or name in ("", ".."):
        raise ValueError(f"{name!r} is not the name of a file in the checkpoint")
    if fields.get("transform_descriptors"):
        raise ValueError(f"{name} is stored as {fields['transform_descriptors']}, not as it is")
    return _StorageInfo(name, _count(fields["offset"]), _count(fields["length"]))


def _dtype(properties: Any) -> torch.dtype:
    """Its state is a tuple that begins with the dtype, itself a name of torch's."""
    if _name(properties) != "TensorProperties":
        raise ValueError(f"found {_name(properties)}, expected TensorProperties")
    state = properties.state
    dtype = state["dtype"] if isinstance(state, dict) else state[0]
    return _DTYPES[dtype.__name__.removeprefix("torch.")]


def _size(record: Any) -> torch.Size:
    if _name(record) != "Size":
        raise ValueError(f"found {_name(record)}, expected Size")
    numbers: Sequence[Any] = record.arguments[0] if record.arguments else ()
    return torch.Size(_count(number) for number in numbers)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"found {value!r:.40}, expected a count")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"found {value!r:.40}, expected text")
    return value


def _items(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"found {value!r:.40}, expected a dictionary")
    return [*value.items()]


def _fields(record: Any, name: str) -> dict[str, Any]:
    if _name(record) != name:
        raise ValueError(f"found {_name(record)}, expected {name}")
    return record.state or {}


def _name(record: Any) -> str:
    """Of a record's class."""
    return type(record).__name__.rpartition(".")[2] if isinstance(record, Record) else repr(record)
