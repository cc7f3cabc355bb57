"""`megatron-stare prefer` on a tiny model: it learns, and a killed run ends as a whole one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.e2e.kills import assert_same_run
from tests.e2e.processes import Running
from tests.e2e.programs import metrics_of, run_command, write_jsonl, write_yaml
from tests.models import hf_tensors, make_hf_folder

pytestmark = pytest.mark.slow

SETTINGS = ("prefer.steps=24", "eval.every=12", "checkpoint.every=6")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prefer")
    make_hf_folder(folder / "model", "qwen3", num_hidden_layers=2)
    sums = [(a, b) for a in range(1, 9) for b in range(1, 7)]
    pairs = [
        {"prompt": f"{a}+{b}=", "chosen": f"{a + b}.", "rejected": f"um, {a + b + 1}"}
        for a, b in sums
    ]
    write_jsonl(folder / "pairs.jsonl", pairs[::2])
    write_jsonl(folder / "heldout.jsonl", pairs[1::2])
    write_yaml(
        folder / "prefer.yaml",
        {
            "model": {"path": str(folder / "model")},
            "data": {"path": str(folder / "pairs.jsonl"), "max_tokens": 32},
            "optim": {"lr": 1e-3},
            "prefer": {"pairs_per_step": 8, "max_tokens_per_micro_batch": 64},
            "eval": {"data": {"path": str(folder / "heldout.jsonl"), "max_tokens": 32}},
            "log": {"progress": False},
        },
    )
    return folder


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory) -> Path:
    """A run that was left in peace."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with start(workspace, run) as running:
        assert running.wait() == 0, running.log.read_text()
    return run


def start(workspace: Path, run: Path, *overrides: str, processes: int = 1) -> Running:
    config, settings = workspace / "prefer.yaml", (*SETTINGS, *overrides)
    return Running.start(run, config, *settings, processes=processes, command="prefer")


def test_it_learns_pairs_and_those_held_out(workspace, whole):
    before, *steps = metrics_of(whole)
    assert before["eval/pairs_loss"] == pytest.approx(math.log(2)), "the policy is its reference"
    assert before["eval/pairs_margin"] == before["eval/pairs_accuracy"] == 0
    first, last = steps[0], steps[-1]
    assert first["loss/total"] == pytest.approx(math.log(2))
    assert all(step["loss/total"] == pytest.approx(step["pairs/loss"]) for step in steps)
    assert last["pairs/accuracy"] == last["eval/pairs_accuracy"] == 1.0
    assert last["eval/pairs_margin"] > steps[11]["eval/pairs_margin"] > 0.1
    assert "eval/pairs_margin" not in steps[12]
    gains = [last[f"pairs/logprob_{which}"] for which in ("chosen", "rejected")]
    were = [first[f"pairs/logprob_{which}"] for which in ("chosen", "rejected")]
    assert gains[0] - were[0] > gains[1] - were[1]


def test_transformers_loads_what_was_saved(workspace, whole):
    AutoModelForCausalLM.from_pretrained(whole / "hf/final")
    before, after = hf_tensors(workspace / "model"), hf_tensors(whole / "hf/final")
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)


def test_a_killed_run_goes_on_to_the_bit(workspace, whole, tmp_path):
    """Its reference is still what it began with, and not what it goes on from."""
    killed = tmp_path / "killed"
    with start(workspace, killed) as running:
        running.wait_for(lambda: (killed / "checkpoints/step_000006").exists())
        running.kill()
    with start(workspace, killed, "run.resume=must") as running:
        assert running.wait() == 0, running.log.read_text()
    assert "going on after step" in (killed / "log.txt").read_text()
    assert_same_run(killed, whole)


def test_a_run_of_another_command_or_method_is_not_gone_on_with(workspace, whole):
    for command, said in (
        (["prefer", "algorithm.method=simpo"], "simpo"),
        (["sft", "data.response_field=chosen"], "the command was prefer, is sft"),
    ):
        settings = [f"run.dir={whole}", f"model.path={workspace}/model", "data.max_tokens=32"]
        paths = [f"data.path={workspace}/pairs.jsonl", "checkpoint.verify=false"]
        config = workspace / "prefer.yaml"
        if command[0] == "sft":
            write_yaml(config := workspace / "sft.yaml", {})
        else:
            settings = [*settings, *SETTINGS]
        done = run_command(command[0], config, command[1], *settings, *paths)
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_pairs_that_are_none_are_one_error_before_anything_is_touched(workspace, tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "1+1=", "chosen": "2"}] * 2)
    done = run_command(
        *("prefer", workspace / "prefer.yaml", f"run.dir={tmp_path}/run"),
        f"data.path={tmp_path}/bad.jsonl",
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "bad.jsonl: 0 of 2 rows used; left out: 2 no field 'rejected' (bad.jsonl:1, " in line
    assert not (tmp_path / "run").exists()
