"""Weights that are not finite end a run with one line, and never take a good checkpoint's place."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_stare.checkpoint.folders import open_checkpoint, steps_of
from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace, metrics_of, run_command
from tests.models import hf_tensors
from tests.unit.weights.test_finite import spoil

pytestmark = pytest.mark.slow

EMBEDDED = ("rollout.engine=embedded", "rollout.replay_path=null", "rollout.max_response_tokens=8")
KEEP_ONE = ("checkpoint.every=1", "checkpoint.keep_last=1")


BAD = ("optim.lr=10", "optim.weight_decay=10")
"""Decay by 100 in an update is more than all: decayed weights change their sign, times 99."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Its model is sound, with an embedding so large that one such update is too much."""
    folder = make_workspace(tmp_path_factory.mktemp("finite"), num_hidden_layers=2)
    for path in (folder / "model").glob("*.safetensors"):
        tensors = load_file(path)
        if "model.embed_tokens.weight" in tensors:
            tensors["model.embed_tokens.weight"] *= 1e14
            save_file(tensors, path, metadata={"format": "pt"})
    return folder


def fail(*arguments: object) -> str:
    """Run a command that must end with one error and exit code 2; returns what it printed."""
    done = run_command(*arguments)
    printed = done.stdout + done.stderr
    assert done.returncode == 2, printed
    assert "Traceback" not in printed
    assert printed.count("megatron-stare: error:") == 1, printed
    return printed


@pytest.mark.parametrize("engine", [(), EMBEDDED], ids=["replay", "embedded"])
def test_a_model_with_a_nan_is_named_before_a_run(workspace, tmp_path, engine):
    model = tmp_path / "model"
    shutil.copytree(workspace / "model", model)
    file = spoil(model, "model.layers.1.mlp.up_proj.weight", float("nan"))
    overrides = (f"model.path={model}", f"run.dir={tmp_path / 'run'}", *engine)
    said = fail("train", workspace / "train.yaml", *overrides)
    assert f"{file}: model.layers.1.mlp.up_proj.weight has 1 of" in said
    said = fail("sft", workspace / "sft.yaml", *overrides[:2])
    assert f"{file}: model.layers.1.mlp.up_proj.weight has 1 of" in said


@pytest.mark.parametrize("is_asynchronous", ["true", "false"])
def test_a_bad_update_leaves_the_last_good_checkpoint(workspace, tmp_path, is_asynchronous):
    settings = (
        *("train", workspace / "train.yaml", f"run.dir={tmp_path / 'run'}", *KEEP_ONE),
        f"checkpoint.asynchronous={is_asynchronous}",
    )
    assert run_command(*settings, "train.steps=2").returncode == 0
    said = fail(*settings, "train.steps=4", "train.save_every=1", *BAD)
    assert "an update with learning rate 10 " in said
    assert "made embedding.word_embeddings.weight infinite or larger than 1e+15" in said
    root = tmp_path / "run/checkpoints"
    assert steps_of(root) == [2]
    assert open_checkpoint(root, 2).step == 2
    [final] = (tmp_path / "run/hf").iterdir()
    assert final.name == "final", "of step 2; nothing of the bad update"
    done = run_command(*settings, "train.steps=4", "run.resume=must")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line["optim/skipped"] for line in metrics_of(tmp_path / "run")] == [0, 0, 0, 0]


def test_fine_tuning_too(workspace, tmp_path):
    run = tmp_path / "run"
    settings = ("sft", workspace / "sft.yaml", f"run.dir={run}", *KEEP_ONE)
    said = fail(*settings, *BAD, "checkpoint.asynchronous=false")
    assert "made embedding.word_embeddings.weight infinite or larger than 1e+15" in said
    assert steps_of(run / "checkpoints") == []
    assert not (run / "hf").exists()


def test_weights_that_are_finite_and_absurd_are_named_before_there_is_a_folder(workspace, tmp_path):
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(workspace / "model", model)
    for path in model.glob("*.safetensors"):
        enlarged = {name: 1e20 * tensor for name, tensor in load_file(path).items()}
        save_file(enlarged, path, metadata={"format": "pt"})
    for command in (("train", *EMBEDDED), ("train",), ("sft",)):
        name, *overrides = (*command, f"model.path={model}", f"run.dir={run}")
        said = fail(name, workspace / f"{name}.yaml", *overrides)
        assert f"{model}: embedding.word_embeddings.weight has values larger than 1e+15" in said
        assert not run.exists()


def test_every_rank_ends_where_one_has_the_nan(workspace, tmp_path):
    """Of two tensor-parallel ranks one reads the rows of the output layer that are good."""
    model = tmp_path / "model"
    shutil.copytree(workspace / "model", model)
    spoil(model, "lm_head.weight", float("nan"))
    overrides = (f"model.path={model}", "parallel.tensor=2")
    config = workspace / "train.yaml"
    with Running.start(tmp_path / "run", config, *overrides, processes=2) as running:
        assert running.wait() == 2
    said = running.log.read_text()
    assert said.count("megatron-stare: error:") == 1, said
    assert "lm_head.weight has 1 of" in said


@pytest.mark.parametrize("layout", [(), ("parallel.tensor=2",), ("parallel.pipeline=2",)])
def test_every_rank_ends_after_a_bad_update(workspace, tmp_path, layout):
    overrides = (*layout, *BAD, *KEEP_ONE)
    config = workspace / "train.yaml"
    with Running.start(tmp_path / "run", config, *overrides, processes=2) as running:
        assert running.wait() == 2
    said = running.log.read_text()
    assert said.count("megatron-stare: error:") == 1, said
    assert steps_of(tmp_path / "run/checkpoints") == []


def test_the_sum_that_is_asked_each_update_changes_no_number(workspace, tmp_path):
    """The probe before a save, too: with and without saves a run has the same weights."""
    tensors = []
    for every in (0, 1):
        run = tmp_path / f"run-{every}"
        settings = (f"run.dir={run}", f"checkpoint.every={every}", "train.save_every=1")
        done = run_command("train", workspace / "train.yaml", *settings[: 2 + every])
        assert done.returncode == 0, done.stderr
        tensors.append(hf_tensors(run / "hf/final"))
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name
    assert json.loads((tmp_path / "run-0/metrics.jsonl").read_text().splitlines()[0])["step"] == 1
