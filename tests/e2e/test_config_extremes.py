"""Every key's extreme values that a config takes: a run of one step that ends as a run does."""

from __future__ import annotations

import pytest

from megatron_stare.algorithms.table import PARTS
from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.evaluation import EvalConfig
from megatron_stare.config.pivots import PivotsConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.sft import SftConfig
from tests.e2e.programs import make_workspace, run_command, write_jsonl, write_yaml
from tests.extremes import extremes, numbers

LONG = {
    "train.steps",
    "rollout.prompts_per_step",
    "rollout.max_rounds",
    "rollout.samples_per_prompt",
    "eval.samples_per_prompt",
    "reward.workers",
    "sft.steps",
    "sft.examples_per_step",
    "prefer.steps",
    "prefer.pairs_per_step",
    "pivots.samples_per_state",
}
"""At their largest these are a long run, or many processes, and no fault."""
OF_PARTS = tuple(f"algorithm.{name}." for name in PARTS)
"""Theirs are tried without a run, in tests/unit/algorithms."""
SECTIONS = {
    "sft": (SftConfig, ("data.", "sft.")),
    "prefer": (PreferConfig, ("data.", "prefer.")),
    "eval": (EvalConfig, ("eval.",)),
    "pivots": (PivotsConfig, ("pivots.",)),
}
"""What other commands read that `train` does not, or by code of their own."""
NOT_READ = {
    EvalConfig: ("eval.data.", "eval.turns.", "eval.every"),
    PivotsConfig: ("pivots.turns.",),
}
"""Of these: read as `train` does, or of no use without a workflow."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("extremes"), num_hidden_layers=1)
    model, log = {"path": str(folder / "model")}, {"progress": False}
    prompts = {"path": str(folder / "prompts.jsonl"), "max_prompt_tokens": 16}
    asked = {"model": model, "log": log, "reward": {"kind": "exact", "workers": 1}}
    few = {"max_response_tokens": 2, "top_k": 1}
    write_jsonl(folder / "pairs.jsonl", [{"prompt": "1", "chosen": "2", "rejected": "3"}] * 4)
    pairs = {"path": str(folder / "pairs.jsonl"), "max_tokens": 32}
    loop = {"steps": 1, "pairs_per_step": 2, "max_tokens_per_micro_batch": 64}
    write_yaml(folder / "prefer.yaml", {"model": model, "log": log, "data": pairs, "prefer": loop})
    write_yaml(folder / "eval.yaml", asked | {"eval": {"data": prompts, **few}})
    states = {"max_mean": 1.0, "samples_per_state": 2, "max_response_tokens": 2}
    write_yaml(folder / "pivots.yaml", asked | {"data": prompts, "pivots": states})
    return folder


def taken_by(kind, *sections):
    return [
        f"{key}={value}"
        for key, bounds in numbers(kind)
        if key.startswith(sections) and not key.startswith(NOT_READ.get(kind, ()))
        for value in extremes(bounds)
        if key not in LONG or value == repr(bounds.get("ge"))
    ]


TAKEN = [
    override
    for override in taken_by(TrainConfig, "")
    if not override.startswith(("slurm.", "rollout.servers.", "parallel.", *OF_PARTS))
]
OTHERS = [
    (command, override)
    for command, (kind, sections) in SECTIONS.items()
    for override in taken_by(kind, *sections)
]


def ends_as_a_run_does(*arguments: object) -> None:
    done = run_command(*arguments)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode in (0, 2)
    if done.returncode == 2:
        [line] = [text for text in done.stderr.splitlines() if "error:" in text]
        assert len(line) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("override", TAKEN)
def test_a_step_with_an_extreme_that_is_taken_ends_as_a_run_does(workspace, tmp_path, override):
    engine = (
        "rollout.engine=embedded",
        "rollout.replay_path=null",
        "rollout.max_response_tokens=4",
        "rollout.dynamic_sampling=false",
    )
    ours = (f"run.dir={tmp_path}/run", "train.steps=1", *engine, "checkpoint.every=0")
    taken = [text for text in ours if not text.startswith(override.partition("=")[0] + "=")]
    ends_as_a_run_does("train", workspace / "train.yaml", *taken, override)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "override"), OTHERS)
def test_other_commands_end_with_their_extremes_too(workspace, tmp_path, command, override):
    steps = ["sft.steps=1"] if command == "sft" and not override.startswith("sft.steps") else []
    config = workspace / f"{command}.yaml"
    ends_as_a_run_does(command, config, f"run.dir={tmp_path}/run", *steps, override)
