"""Every key's extreme values that a config takes: a run of one step that ends as a run does."""

from __future__ import annotations

import pytest

from megatron_stare.algorithms.table import PARTS
from megatron_stare.config.commands import TrainConfig
from tests.e2e.programs import make_workspace, run_command
from tests.extremes import extremes, numbers

LONG = {
    "train.steps",
    "rollout.prompts_per_step",
    "rollout.max_rounds",
    "rollout.samples_per_prompt",
    "eval.samples_per_prompt",
    "reward.workers",
}
"""At their largest these are a long run, or many processes, and no fault."""
OF_PARTS = tuple(f"algorithm.{name}." for name in PARTS)
"""Theirs are tried without a run, in tests/unit/algorithms."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("extremes"), num_hidden_layers=1)


TAKEN = [
    f"{key}={value}"
    for key, bounds in numbers(TrainConfig)
    if not key.startswith(("slurm.", "rollout.servers.", "parallel.", *OF_PARTS))
    for value in extremes(bounds)
    if key not in LONG or value == repr(bounds.get("ge"))
]


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
    done = run_command("train", workspace / "train.yaml", *taken, override)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode in (0, 2)
    if done.returncode == 2:
        [line] = [text for text in done.stderr.splitlines() if "error:" in text]
        assert len(line) < 1000
