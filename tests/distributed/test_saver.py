"""Checkpoints of a world of two: whole or not there, found again, damaged ones passed over."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch.distributed as dist

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.checkpoint.folders import begin, open_checkpoint, steps_of
from megatron_stare.checkpoint.resume import find_checkpoint
from megatron_stare.checkpoint.saver import Saver
from megatron_stare.config.run import CheckpointConfig
from megatron_stare.errors import UserError
from megatron_stare.policy.checkpoint import load_policy
from tests.disks import full_disk
from tests.distributed.test_policy_checkpoint import open_policy
from tests.models import make_hf_folder
from tests.worlds import run_world


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("model") / "hf")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Checkpoints of steps 1 and 2."""
    root = tmp_path_factory.mktemp("whole") / "checkpoints"
    run_world(2, save_steps, model, root, {})
    return root


@pytest.fixture
def root(whole, tmp_path):
    """A copy of them, to be damaged."""
    for folder in whole.glob("step_*"):
        copy = tmp_path / folder.name
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    return tmp_path


def save_steps(rank: int, model: Path, root: Path, faults: dict[int, int]) -> list[str | int]:
    """Save steps 1 and 2, or up to 4 with faults: the disk is full at a step, on a rank.

    On rank 0 it is full when all but the index is written.
    """
    said: list[str | int] = []
    saver = Saver(root, CheckpointConfig(), {"world_size": 2}, said.append, said.append)
    policy = open_policy(model, {"tensor": 2})
    for step in (1, 2, 3, 4) if faults else (1, 2):
        with full_disk() if (step, rank) in [*faults.items()] and rank > 0 else nullcontext():
            saver.save(step, policy, {"step": step} if rank == 0 else {})
            while not saver.is_written:
                time.sleep(0.001)
        with full_disk() if (step, rank) in [*faults.items()] else nullcontext():
            saver.finish()
    saver.close()
    return said


def find(rank: int, root: Path, **options) -> tuple[int | None, list[str]]:
    said: list[str] = []
    try:
        found = find_checkpoint(
            root, **{"resume": "auto", "checksums": True} | options, report=said.append
        )
    except UserError as error:
        return None, [*said, str(error)]
    return found and found.step, said


def load(rank: int, model: Path, folder: Path) -> None:
    load_policy(open_policy(model, {"pipeline": 2}), folder, is_same_world=True)


def test_a_disk_that_is_full_on_one_rank_costs_that_checkpoint_only(model, tmp_path):
    """A limit on the size of files stands for the full disk: for shards, and for the index."""
    said, others = run_world(2, save_steps, model, tmp_path, {2: 1, 3: 0})
    assert steps_of(tmp_path) == [4, 1]
    assert [str(line).split(":")[0] for line in said] == [
        *("1", "no checkpoint of step 2", "no checkpoint of step 3", "4")
    ]
    assert others == []
    assert list(tmp_path.glob("*.unfinished")) == []
    run_world(2, load, model, open_checkpoint(tmp_path, 4).folder)


def save_without_folder(rank: int, model: Path, root: Path) -> list[str | int]:
    """Save step 1 where its folder cannot be made, and step 2 where it can."""
    said: list[str | int] = []
    saver = Saver(root, CheckpointConfig(), {"world_size": 2}, said.append, said.append)
    policy = open_policy(model, {"tensor": 2})
    for step in (1, 2):
        saver.save(step, policy, {"step": step} if rank == 0 else {})
        saver.finish()
        if rank == 0 and step == 1:
            root.unlink()
        dist.barrier()
    saver.close()
    return said


def test_a_folder_that_cannot_be_made_costs_that_checkpoint_only(model, tmp_path):
    root = tmp_path / "checkpoints"
    root.write_text("in the way")
    (problem, step), others = run_world(2, save_without_folder, model, root)
    assert str(problem).startswith("no checkpoint of step 1: [Errno 17] File exists")
    assert step == 2
    assert others == []
    assert steps_of(root) == [2]


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda newest: flip_bit(newest / "__1_0.distcp"), "its checksum is not"),
        (lambda newest: flip_bit(newest / ".metadata"), "its checksum is not"),
        (lambda newest: (newest / "__0_0.distcp").write_bytes(b"PK"), "2 bytes, the manifest has"),
        (lambda newest: (newest / "__1_0.distcp").unlink(), "missing"),
        (lambda newest: (newest / "run_state.pt").unlink(), "missing"),
        (lambda newest: (newest / "manifest.json").unlink(), "cannot be read"),
    ],
    ids=["a flipped bit", "index", "truncated", "missing rank", "run state", "manifest"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(root, damage, said):
    damage(root / "step_000002")
    for step, lines in run_world(2, find, root):
        assert step == 1
        assert len(lines) == 1
        assert lines[0].startswith("checkpoint of step 2 is damaged")
        assert said in lines[0]


def test_without_checksums_sizes_are_compared(root):
    flip_bit(root / "step_000002" / "__1_0.distcp")
    assert run_world(1, find_by_size, root)[0] == (2, [])


def find_by_size(rank: int, root: Path) -> tuple[int | None, list[str]]:
    return find(rank, root, checksums=False)


def test_no_whole_checkpoint_is_an_error_and_not_a_fresh_start(root):
    for step in (1, 2):
        (root / f"step_00000{step}" / ".metadata").unlink()
    step, lines = run_world(1, find, root)[0]
    assert step is None
    assert "none of 2 checkpoints is whole" in lines[-1]


def ask(rank: int, root: Path, empty: Path) -> list[tuple[int | None, list[str]]]:
    dist.barrier()
    return [
        find(rank, folder, resume=resume)
        for folder in (root, empty)
        for resume in ("auto", "must", "never")
    ]


def test_a_run_goes_on_as_it_is_told(root, tmp_path):
    begin(tmp_path / "empty", 7)
    found = run_world(1, ask, root, tmp_path / "empty")[0]
    assert [step for step, _ in found] == [2, 2, None, None, None, None]
    assert "has a checkpoint of step 2, and run.resume=never" in found[2][1][0]
    assert found[3][1] == []
    assert "no checkpoint, and run.resume=must" in found[4][1][0]
    assert found[5][1] == []
