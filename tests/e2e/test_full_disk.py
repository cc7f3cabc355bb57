"""A disk that fails during a run costs what cannot be written: no traceback, nothing torn."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from megatron_stare.checkpoint.folders import steps_of
from megatron_stare.observe.history import read_metrics
from tests.disks import make_read_only, small_disk
from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace, run_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("disk"), num_hidden_layers=2)


def run(workspace, folder, *overrides: object, command: str = "train"):
    settings = (f"run.dir={folder}", f"{command}.steps=3", "checkpoint.every=1", *overrides)
    done = run_command(command, workspace / f"{command}.yaml", *settings)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed
    return done.returncode, printed


def assert_nothing_is_torn(folder) -> None:
    for path in folder.glob("samples/*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line)
    for path in folder.glob("hf/*/*.safetensors"):
        with safe_open(path, "pt") as file:
            assert list(file.keys())
    assert not list(folder.rglob("*.unfinished"))
    assert not list(folder.rglob(".*.partial"))


@pytest.mark.parametrize("size", ["150k", "300k", "1m", "3m"])
def test_a_disk_that_fills_up(workspace, tmp_path, size):
    with small_disk(tmp_path / "small", f"size={size}"):
        folder = tmp_path / "small/run"
        code, printed = run(workspace, folder, "log.tensorboard=true")
        assert "step 3/3" in printed
        has_model = (folder / "hf/final").is_dir()
        assert code == (0 if has_model else 2)
        assert printed.count("megatron-stare: error:") == (not has_model), printed
        assert printed.count(f"{folder / 'samples'}: cannot be written") <= 1
        assert printed.count(f"{folder / 'metrics.jsonl'}: cannot be written") <= 1
        assert_nothing_is_torn(folder)


def test_a_model_that_did_not_fit_is_written_by_the_same_command_with_room(workspace, tmp_path):
    with small_disk(tmp_path / "small", "size=200k"):
        # A folder of its own for checkpoints: they have room.
        folder, checkpoints = tmp_path / "small/run", tmp_path / "checkpoints"
        checkpoints.mkdir()
        folder.mkdir()
        (folder / "checkpoints").symlink_to(checkpoints)
        code, printed = run(workspace, folder, "log.dump_samples=false")
        assert code == 2
        assert "hf/final: cannot be written" in printed
        assert steps_of(checkpoints) == [3, 2]
        (tmp_path / "hf").mkdir()
        (folder / "hf").rmdir()
        (folder / "hf").symlink_to(tmp_path / "hf")
        code, printed = run(workspace, folder, "log.dump_samples=false", "run.resume=must")
        assert code == 0, printed
        assert (tmp_path / "hf/final/model.safetensors").exists()


def test_a_checkpoint_whose_folder_cannot_be_made(workspace, tmp_path):
    folder = tmp_path / "run"
    with small_disk(folder / "checkpoints", "size=50m,nr_inodes=7"):
        code, printed = run(workspace, folder)
        assert code == 0, printed
        assert "no checkpoint of step" in printed
        assert "No space left on device" in printed
    assert (folder / "hf/final").is_dir()


@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_disk_that_can_no_longer_be_written(workspace, tmp_path, command):
    small, config = tmp_path / "small", workspace / f"{command}.yaml"
    settings = (f"{command}.steps=30", "checkpoint.every=1")
    with small_disk(small, "size=100m"):
        (small / "run").mkdir()
        (small / "run/log.txt").symlink_to(tmp_path / "log.txt")
        with Running.start(small / "run", config, *settings, command=command) as running:
            running.wait_for(lambda: len(steps_of(small / "run/checkpoints")) > 0)
            make_read_only(small)
            assert running.wait() == 2
        printed = running.log.read_text()
        assert "Traceback" not in printed, printed
        assert printed.count("metrics.jsonl: cannot be written ([Errno 30]") == 1
        assert "hf/final: cannot be written" in printed
        assert read_metrics(small / "run")
