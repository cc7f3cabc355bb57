"""A run's folder: where it cannot be, what is in it besides, and what becomes of a run without."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from megatron_stare.cli import main
from tests.e2e.kills import start
from tests.e2e.programs import make_workspace, write_yaml
from tests.models import hf_tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = make_workspace(tmp_path_factory.mktemp("workspace"), num_hidden_layers=2)
    write_yaml(
        folder / "eval.yaml",
        {
            "model": {"path": str(folder / "model")},
            "eval": {"data": {"path": str(folder / "prompts.jsonl")}, "max_response_tokens": 8},
        },
    )
    return folder


def train(workspace: Path, run: Path, *overrides: str) -> int:
    return main(["train", str(workspace / "train.yaml"), f"run.dir={run}", *overrides])


def commands_that_write(workspace: Path, run: Path, folder: Path) -> list[list[str]]:
    """Each command, told to write into a folder."""
    model = str(workspace / "model")
    return [
        *([name, f"{workspace}/{name}.yaml", f"run.dir={folder}"] for name in ("train", "sft")),
        ["eval", f"{workspace}/eval.yaml", f"run.dir={folder}"],
        ["report", str(run), "--out", str(folder)],
        ["convert", "hf-to-megatron", model, str(folder / "converted"), "--force"],
        ["serve", model, "--python", "/bin/true", "--registry", str(folder)],
        ["slurm", f"{workspace}/train.yaml", f"run.dir={folder}", "slurm.gpus_per_node=0"],
    ]


def test_every_command_says_in_one_line_that_its_folder_cannot_be(workspace, tmp_path, capsys):
    assert train(workspace, tmp_path / "run", "train.steps=1") == 0
    (tmp_path / "file").write_text("somebody's")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for folder in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / "link", Path("/proc/a")):
        for command in commands_that_write(workspace, tmp_path / "run", folder):
            assert main(command) == 2, command
            [error] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
            assert "cannot be written (" in error, command
    assert (tmp_path / "file").read_text() == "somebody's"
    assert not (tmp_path / "nothing").exists()


def test_a_thing_of_the_wrong_kind_is_named(workspace, tmp_path, capsys):
    for name in ("metrics.jsonl", "config.yaml", "lock", "checkpoints", "samples", "hf", "bank"):
        path = tmp_path / name / name
        path.parent.mkdir()
        if name in ("metrics.jsonl", "config.yaml"):
            path.mkdir()
        elif name == "lock":
            os.mkfifo(path)
        else:
            path.write_text("somebody's")
        assert train(workspace, path.parent, "train.steps=1") == 2
        assert f"{path}: is no " in capsys.readouterr().err
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        path.symlink_to("nowhere")
        assert train(workspace, path.parent, "train.steps=1") == 2
        assert f"{path}: is no " in capsys.readouterr().err


def test_a_run_shortened_to_where_it_stands_ends_there_with_its_model(workspace, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(workspace, whole, "train.steps=1") == 0
    settings = ("checkpoint.every=1", "checkpoint.keep_last=9")
    assert train(workspace, run, "train.steps=2", *settings) == 0
    # As if it had been killed in its second step: and there is a model of another.
    shutil.rmtree(run / "checkpoints" / "step_000002")
    assert train(workspace, run, "train.steps=1", *settings) == 0
    expected = hf_tensors(whole / "hf" / "final")
    for name, tensor in hf_tensors(run / "hf" / "final").items():
        assert tensor.equal(expected[name]), name


def test_a_finished_run_is_not_written_again_and_one_whose_model_is_gone_is(
    workspace, tmp_path, capsys
):
    run = tmp_path / "run"
    assert train(workspace, run, "train.steps=1") == 0
    printed = capsys.readouterr().out
    assert f"run       {run}, steps 1 to 1" in printed
    assert printed.splitlines()[-1].endswith(f"megatron-stare report {run} draws them")
    before = (run / "hf" / "final" / "config.json").stat()
    assert train(workspace, run, "train.steps=1") == 0
    assert f"run       {run}: nothing is left to do after step 1" in capsys.readouterr().out
    assert (run / "hf" / "final" / "config.json").stat() == before
    shutil.rmtree(run / "hf")
    assert train(workspace, run, "train.steps=1") == 0
    assert (run / "hf" / "final" / "config.json").exists()


def test_a_run_goes_on_with_recorded_samples(workspace, tmp_path, capsys):
    embedded = ("rollout.engine=embedded", "rollout.replay_path=null")
    few = ("rollout.dynamic_sampling=false", "rollout.max_response_tokens=40")
    run = tmp_path / "run"
    assert train(workspace, run, "train.steps=1", *few, *embedded) == 0
    capsys.readouterr()
    assert train(workspace, run, "train.steps=2", *few) == 0, capsys.readouterr()
    assert "rollout.engine: embedded -> replay" in capsys.readouterr().out


def sft(workspace: Path, run: Path, model: Path, *overrides: str) -> int:
    overrides = (f"run.dir={run}", f"model.path={model}", *overrides)
    return main(["sft", str(workspace / "sft.yaml"), *overrides])


def test_fine_tuning_does_not_go_on_with_another_tokenizer(workspace, tmp_path, capsys):
    """Its rows have the same tokens, of digits alone: two letters have changed places."""
    run, model = tmp_path / "run", shutil.copytree(workspace / "model", tmp_path / "model")
    assert sft(workspace, run, model, "sft.steps=1") == 0
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    assert sft(workspace, run, model, "sft.steps=2") == 0
    assert "changed since the run was saved: chat_template: " in capsys.readouterr().out
    file = json.loads((model / "tokenizer.json").read_text())
    vocabulary = file["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (model / "tokenizer.json").write_text(json.dumps(file))
    assert sft(workspace, run, model, "sft.steps=3") == 2
    assert "its tokenizer is not the one that the run began with" in capsys.readouterr().err


def test_leavings_are_removed_and_somebodys_things_are_not(workspace, tmp_path):
    run = tmp_path / "run"
    leavings = ["checkpoints/step_000009.unfinished", "samples/step_000001.jsonl.unfinished"]
    leavings += ["hf/.final.partial", "lock.host.7", "checkpoints/latest.unfinished"]
    theirs = ["notes.txt", "checkpoints/step_2", "bank/step_x.bank", "samples/step_x.jsonl"]
    for name in (*leavings, *theirs):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("left")
    assert train(workspace, run, "train.steps=1") == 0
    assert [name for name in leavings if (run / name).exists()] == []
    assert [name for name in theirs if not (run / name).exists()] == []


def test_a_run_that_begins_anew_where_one_logged_says_so(workspace, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(workspace, run, "train.steps=1", "checkpoint.every=0") == 0
    lines = (run / "metrics.jsonl").read_text()
    assert "begins anew" not in capsys.readouterr().out
    assert train(workspace, run, "train.steps=1", "checkpoint.every=0") == 0
    assert "no checkpoint to go on from, the run begins anew" in capsys.readouterr().out
    assert (run / "metrics.cut.jsonl").read_text() == lines
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1


@pytest.mark.parametrize("lost", ["the folder", "the lock", "the lock to another"])
def test_a_run_whose_folder_is_lost_ends_with_one_message(workspace, tmp_path, lost):
    run = tmp_path / "run"
    settings = ("train.steps=500", "checkpoint.every=1", "checkpoint.asynchronous=false")
    with start(workspace, run, *settings) as running:
        running.wait_for(lambda: (run / "checkpoints" / "latest").exists())
        if lost == "the folder":
            running.log = run.rename(tmp_path / "elsewhere") / running.log.name
        elif lost == "the lock":
            (run / "lock").unlink()
        else:
            (run / "lock").write_text("elsewhere 7\n")
        assert running.wait() == 2, running.log.read_text()
    log = running.log.read_text()
    assert log.count("error:") == 1
    assert "not this run's any more" in log
    assert "Traceback" not in log
