"""`convert` and `verify` as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.processes import Running
from tests.e2e.programs import REPO, make_workspace, run_command, succeed
from tests.models import edit_json, hf_tensors, make_hf_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Hugging Face folder, and what the command makes of it."""
    folder = tmp_path_factory.mktemp("convert")
    make_hf_folder(folder / "hf", "qwen3", tied=True)
    printed = succeed("convert", "hf-to-megatron", folder / "hf", folder / "megatron")
    assert "megatron: 34 parameters, 0.00 GB in" in printed
    return folder


def test_verify_computes_the_log_probs_of_both(model):
    printed = succeed("verify", model / "hf", model / "megatron")
    assert "tensors: 46 of 46 bit-identical" in printed
    worst = float(printed.partition("the worst is ")[2].split()[0])
    assert 0 <= worst < 1e-5


def test_verify_tells_the_worst_tensor_and_exits_1(model, tmp_path):
    succeed("convert", "hf-to-megatron", model / "hf", tmp_path / "half", "--dtype", "bfloat16")
    arguments = ("verify", model / "hf", tmp_path / "half", "--tensors-only")
    done = run_command(*arguments)
    assert done.returncode == 1, done.stderr
    assert "tensors: 0 of 46 bit-identical" in done.stdout
    assert done.stdout.count("(float32 and bfloat16)") == 5
    succeed(*arguments, "--tolerance", "0.01")


def test_a_checkpoint_of_a_run_becomes_the_folder_that_the_run_saved(tmp_path):
    """Of two tensor-parallel ranks, in bfloat16, with Adam's moments beside the model."""
    workspace = make_workspace(tmp_path, num_hidden_layers=2)
    settings = ("train.steps=1", "model.dtype=bfloat16", "parallel.tensor=2")
    config = workspace / "train.yaml"
    with Running.start(workspace / "run", config, *settings, processes=2) as running:
        assert running.wait(240) == 0, running.log.read_text()
    checkpoint, back = workspace / "run/checkpoints/step_000001", tmp_path / "back"
    succeed("convert", "megatron-to-hf", checkpoint, back, "--hf", workspace / "model")
    converted, saved = hf_tensors(back), hf_tensors(workspace / "run/hf/final")
    begun = hf_tensors(workspace / "model")
    assert converted.keys() == saved.keys() == begun.keys()
    assert all(torch.equal(converted[name], saved[name]) for name in saved)
    assert not any(torch.equal(converted[name].float(), begun[name]) for name in saved)
    assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"
    flip_a_bit(checkpoint / "__0_0.distcp")
    for command in (
        (
            "convert",
            "megatron-to-hf",
            checkpoint,
            tmp_path / "spoiled",
            "--hf",
            workspace / "model",
        ),
        ("verify", back, checkpoint, "--hf", workspace / "model", "--tensors-only"),
    ):
        done = run_command(*command)
        assert done.returncode == 2
        assert "__0_0.distcp: its checksum is not that of the manifest; expected" in done.stderr
    assert not (tmp_path / "spoiled").exists()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tp", "3"), "parallel.tensor=3 does not divide the model's 8 attention heads"),
        (("--tp", "2", "--pp", "3"), "parallel.pipeline=3 does not divide the model's 4 layers"),
        (("--ep", "2"), "parallel.expert=2 needs a mixture of experts"),
        (("--pp", "0"), "--pp: input should be greater than or equal to 1, found '0'"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused_before_anything_is_written(
    model, tmp_path, options, said
):
    done = run_command("convert", "hf-to-megatron", model / "hf", tmp_path / "out", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_the_same_for_any_layout(model, tmp_path):
    succeed("convert", "hf-to-megatron", model / "hf", tmp_path / "out", "--tp", "2", "--pp", "4")
    assert files_of(tmp_path / "out") == files_of(model / "megatron")


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_dry_run_lists_what_maps_to_what_and_writes_nothing(model, tmp_path):
    arguments = ("hf-to-megatron", model / "hf", tmp_path / "out", "--dry-run")
    lines = succeed("convert", *arguments).splitlines()
    assert len(lines) == 34
    assert lines[2] == (
        "decoder.layers.self_attention.linear_qkv.weight[0]  [128, 48] float32  <->  "
        "model.layers.0.self_attn.q_proj.weight, model.layers.0.self_attn.k_proj.weight, "
        "model.layers.0.self_attn.v_proj.weight"
    )
    assert not list(tmp_path.iterdir())


def test_the_scripts_are_the_commands(model, tmp_path):
    for script, source, out in (
        ("convert_hf_to_megatron.py", model / "hf", tmp_path / "megatron"),
        ("convert_megatron_to_hf.py", tmp_path / "megatron", tmp_path / "hf"),
    ):
        command = [sys.executable, REPO / "tools" / script, source, out]
        subprocess.run(command, check=True, cwd=REPO, env={"PYTHONPATH": str(REPO)})
    assert hf_tensors(tmp_path / "hf").keys() == hf_tensors(model / "hf").keys()


def test_what_is_wrong_is_one_line_and_exit_code_2(model, tmp_path):
    def refused(*arguments) -> str:
        done = run_command("convert", *arguments)
        assert done.returncode == 2
        [message] = done.stderr.splitlines()
        return message

    assert "megatron: exists; expected" in refused(
        "hf-to-megatron", model / "hf", model / "megatron"
    )
    assert "metadata.json: no such file; expected a checkpoint" in refused(
        "megatron-to-hf", model / "hf", tmp_path / "out"
    )
    make_hf_folder(tmp_path / "wrong", "qwen3", tied=True)
    edit_json(tmp_path / "wrong/config.json", num_key_value_heads=8)
    assert "k_proj.weight has shape [32, 48], expected [64, 48]" in refused(
        "hf-to-megatron", tmp_path / "wrong", tmp_path / "out"
    )
