"""A checkpoint from elsewhere that would run code is refused by every command, by file and name."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from tests.e2e.programs import make_workspace, run_command
from tests.e2e.test_bad_input import refused

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    workspace = make_workspace(tmp_path_factory.mktemp("run"))
    run_command("train", workspace / "train.yaml", "train.steps=1", "checkpoint.every=1")
    return workspace


class Trap:
    """Is pickled as code that leaves a file, and is the genuine content when it has run."""

    def __init__(self, mark: Path, content: bytes) -> None:
        leave = f"open({str(mark)!r}, 'w').close()"
        self.code = f"({leave}, __import__('pickle').loads({content!r}))[1]"

    def __reduce__(self):
        return eval, (self.code,)


def checkpoint_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run / "run", folder)
    (step,) = (folder / "checkpoints").glob("step_*")
    return step


def seal(step: Path) -> None:
    """Have a manifest without a checksum of its own agree with the files, as anyone can."""
    path = step / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("format", None)
    manifest.pop("crc32", None)
    for name in manifest["files"]:
        content = (step / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "crc32": zlib.crc32(content)}
    path.write_text(json.dumps(manifest))


def test_an_index_with_code_is_refused_by_convert_verify_and_train(run: Path, tmp_path: Path):
    step = checkpoint_of(run, tmp_path / "run")
    index, mark = step / ".metadata", tmp_path / "ran"
    index.write_bytes(pickle.dumps(Trap(mark, index.read_bytes())))
    seal(step)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    for command in (
        ("convert", "megatron-to-hf", step, tmp_path / "hf", "--hf", run / "model"),
        ("verify", run / "model", step, "--hf", run / "model", "--tensors-only"),
        ("train", run / "train.yaml", f"run.dir={tmp_path / 'run'}", "train.steps=2"),
    ):
        message = refused(*command)
        assert f"{index}: refused, for it names builtins.eval" in message
        assert not mark.exists()
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"run"}  # Where the lock came and went.


@pytest.mark.parametrize("key", ["rng/shard_0_1", "common_state/shard_0_1"])
def test_an_object_with_code_is_refused_when_a_run_goes_on(run: Path, tmp_path: Path, key: str):
    step, mark, content = checkpoint_of(run, tmp_path / "run"), tmp_path / "ran", io.BytesIO()
    torch.save([Trap(mark, b"N.")], content)
    index = FileSystemReader(step).read_metadata()
    info = next(info for place, info in index.storage_data.items() if place.fqn == key)
    file = step / info.relative_path
    info.offset, info.length = file.stat().st_size, len(content.getvalue())
    file.write_bytes(file.read_bytes() + content.getvalue())
    (step / ".metadata").write_bytes(pickle.dumps(index))
    seal(step)
    message = refused("train", run / "train.yaml", f"run.dir={tmp_path / 'run'}", "train.steps=2")
    assert f"{file}: {key}: refused, for it names builtins.eval" in message
    assert not mark.exists()
