"""A checkpoint from elsewhere is data: whatever it names, nothing of it runs."""

from __future__ import annotations

import copyreg
import functools
import io
import operator
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)

from megatron_stare.errors import UserError
from megatron_stare.system.untrusted import load_data
from megatron_stare.weights.checkpoint_index import INDEX_FILE, read_index
from megatron_stare.weights.conversion import run_conversion
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.torch_dist import Checkpoint, check_objects
from tests.models import make_hf_folder

CHUNK_FILE = "__0_0.distcp"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    hf = make_hf_folder(folder / "hf", "qwen3")
    run_conversion(HfToMegatron(hf), folder / "megatron", threads=1)
    return folder / "megatron"


@pytest.fixture
def checkpoint(converted: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in converted.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


class Call:
    """Is pickled as a call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class StateOf:
    """Is pickled as an object of an admitted class whose state has something else called."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __reduce__(self):
        return Metadata, ({}, None, {}), {"planner_data": [{"deep": (self.inner,)}]}


def mark(folder: Path) -> str:
    return f"open({str(folder / 'ran')!r}, 'w').close()"


PAYLOADS: dict[str, Callable[[Path], object]] = {
    "builtins.eval": lambda folder: Call(eval, mark(folder)),
    "builtins.exec": lambda folder: Call(exec, mark(folder)),
    "posix.system": lambda folder: Call(os.system, f"touch {folder}/ran"),
    "builtins.getattr": lambda folder: Call(getattr, "", "join"),
    "builtins.__import__": lambda folder: Call(__import__, "this"),
    "functools.partial": lambda folder: Call(functools.partial, eval, mark(folder)),
    "copyreg._reconstructor": lambda folder: Call(copyreg._reconstructor, Metadata, object, None),
    "operator.methodcaller": lambda folder: Call(operator.methodcaller, "system", "true"),
    "torch.serialization.load": lambda folder: Call(torch.load, str(folder / INDEX_FILE)),
    "torch._C._set_default_dtype": lambda folder: Call(torch._C._set_default_dtype, torch.half),
    "torch.hub.load": lambda folder: Call(torch.hub.load, "x", "y"),
    "pickle.loads": lambda folder: Call(pickle.loads, b"N."),
    "_pickle.loads": lambda folder: Call(pickle._loads, b"N."),
}
IN_OTHERS = {
    "inside": StateOf,
    "in a list": lambda inner: [1, {"a": (inner,)}],
    "bare": lambda x: x,
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", IN_OTHERS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_an_index_that_names_anything_else_is_refused_by_name(tmp_path, name, place, protocol):
    payload = IN_OTHERS[place](PAYLOADS[name](tmp_path))
    (tmp_path / INDEX_FILE).write_bytes(pickle.dumps(payload, protocol=protocol))
    with pytest.raises(UserError, match="refused, for it names") as error:
        read_index(tmp_path)
    assert str(tmp_path / INDEX_FILE) in str(error.value)
    assert not (tmp_path / "ran").exists()


def short(text: str) -> bytes:
    return b"\x8c" + struct.pack("B", len(text)) + text.encode()


def dotted(module: str, name: str) -> bytes:
    """A call of what STACK_GLOBAL finds behind dots."""
    return b"\x80\x04" + short(module) + short(name) + b"\x93" + short("true") + b"\x85R."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "os.system"),
        ("torch", "Size.__class__.__base__.__subclasses__"),
        ("torch.serialization", "_get_layout.__globals__"),
        ("torch.distributed.checkpoint.metadata", "Metadata.__init__.__globals__"),
        ("torch.distributed.checkpoint.metadata", "os.system"),
        ("torch.distributed.checkpoint.filesystem", "os.system"),
        ("torch.distributed.checkpoint.filesystem", "FileSystemReader"),
        ("torch.distributed.checkpoint.planner", "LoadPlan"),
        ("torch", "load"),
        ("pathlib", "os.system"),
        ("collections", "namedtuple"),
    ],
)
def test_what_stands_behind_an_admitted_name_is_not_reached(tmp_path, module, name):
    (tmp_path / INDEX_FILE).write_bytes(dotted(module, name))
    with pytest.raises(UserError, match="refused, for it names") as error:
        read_index(tmp_path)
    assert f"{module}.{name}" in str(error.value)


def test_states_of_admitted_classes_change_no_class(tmp_path):
    """BUILD on a class would set its attributes."""
    module = "torch.distributed.checkpoint.metadata"
    build = (
        b"\x80\x04" + short(module) + short("Metadata") + b"\x93N}" + short("x") + b"K\x01s\x86b."
    )
    (tmp_path / INDEX_FILE).write_bytes(build)
    with pytest.raises(UserError, match=r"\.metadata: damaged"):
        read_index(tmp_path)
    assert not hasattr(Metadata, "x")


@pytest.mark.parametrize(
    "content",
    [b"", b"N.", b"\x80\x04", b"garbage", b"\x80\x04]q\x00h\x00a.", b"I" + b"9" * 9000 + b"\n."],
    ids=["empty", "none", "cut", "text", "itself", "huge"],
)
def test_an_index_that_is_none_is_called_damaged(tmp_path, content: bytes):
    (tmp_path / INDEX_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"\.metadata: damaged"):
        read_index(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b", "", ".."])
def test_an_index_that_points_out_of_its_folder_is_refused(checkpoint: Path, name: str):
    index = FileSystemReader(checkpoint).read_metadata()
    for info in index.storage_data.values():
        info.relative_path = name
    (checkpoint / INDEX_FILE).write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match="not the name of a file in the checkpoint"):
        read_index(checkpoint)


@pytest.mark.parametrize("kind", [BytesStorageMetadata, TensorStorageMetadata])
def test_an_index_that_does_not_say_where_something_is_is_damaged(checkpoint: Path, kind: type):
    index = FileSystemReader(checkpoint).read_metadata()
    entries = index.state_dict_metadata
    del index.storage_data[next(i for i in index.storage_data if isinstance(entries[i.fqn], kind))]
    (checkpoint / INDEX_FILE).write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match=r"\.metadata: damaged \(ValueError: it does not say where"):
        read_index(checkpoint)


def test_an_index_of_this_project_is_what_torch_reads(converted: Path):
    ours, theirs = read_index(converted), FileSystemReader(converted).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
    check_objects(converted)


def save(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def replace_stored(checkpoint: Path, key: str, content: bytes) -> None:
    """Have the first record of a key be other content, at the end of its file."""
    index = FileSystemReader(checkpoint).read_metadata()
    place = next(place for place in index.storage_data if place.fqn == key)
    info = index.storage_data[place]
    path = checkpoint / info.relative_path
    info.offset, info.length = path.stat().st_size, len(content)
    path.write_bytes(path.read_bytes() + content)
    (checkpoint / INDEX_FILE).write_bytes(pickle.dumps(index))


@pytest.mark.parametrize("name", PAYLOADS)
def test_an_object_beside_the_tensors_that_has_anything_called_is_refused(checkpoint, name):
    payload = [StateOf(PAYLOADS[name](checkpoint))]
    replace_stored(checkpoint, "common_state/shard_0_1", save(payload))
    with pytest.raises(UserError, match=r"distcp: common_state/shard_0_1: refused, for it names"):
        check_objects(checkpoint)
    assert not (checkpoint / "ran").exists()


def test_a_tensor_that_has_anything_called_is_refused(checkpoint: Path):
    key = "decoder.final_layernorm.weight"
    replace_stored(checkpoint, key, save(Call(eval, mark(checkpoint))))
    whole = Checkpoint(checkpoint)
    size = tuple(whole.tensors[key].size)
    with pytest.raises(UserError, match=r"refused, for it names builtins\.eval"):
        whole.read_part(key, (0,), size)
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(47),
        torch.tensor(1.0),
        torch.zeros(48, dtype=torch.int32),
        torch.zeros(48, dtype=torch.complex64),
        {"weight": 1},
    ],
    ids=["short", "scalar", "integers", "complex", "no tensor"],
)
def test_a_tensor_that_is_not_what_the_index_says_is_named(checkpoint: Path, value: object):
    key = "decoder.final_layernorm.weight"
    replace_stored(checkpoint, key, save(value))
    with pytest.raises(UserError, match=rf"{key} is no tensor of \[48\] in torch\.float32"):
        Checkpoint(checkpoint).read_part(key, (0,), (48,))


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_values_and_tensors_are_loaded(tmp_path: Path, legacy: bool):
    value = {"step": 3, "rates": [0.5, None, True], "text": "ab", "state": torch.arange(5)}
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    found = load_data(tmp_path / "a.pt", tmp_path / "a.pt")
    assert torch.equal(found.pop("state"), value.pop("state"))
    assert found == value


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_has_anything_called_is_refused(tmp_path: Path, legacy: bool):
    path = tmp_path / "run_state.pt"
    torch.save({"a": Call(eval, mark(tmp_path))}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"run_state\.pt: refused, for it names builtins\.eval"):
        load_data(path, path)
    assert not (tmp_path / "ran").exists()
