"""A run whose episodes an agent plays, over the endpoint: it trains on what it has said."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kills import assert_same_run, finish, start
from tests.e2e.programs import make_turn_workspace, metrics_of

pytestmark = pytest.mark.slow

PLAYED = (
    *("workflow.agent.function=tests.e2e.agent_of_tests:talk", "rollout.temperature=20"),
    *("workflow.format=null", "tools.names=[]", "data.template='{prompt}'"),
    *("rollout.engine=embedded", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
    *("rollout.max_response_tokens=300", "rollout.turns.max_turns=4", "data.max_prompt_tokens=64"),
    *("rollout.turns.max_turn_tokens=40", "rollout.prompts_per_step=2"),
    *("train.max_tokens_per_micro_batch=1800", "log.dump_samples=true"),
    *("train.steps=3", "checkpoint.every=1"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_turn_workspace(tmp_path_factory.mktemp("agents"))


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """A run that was left in peace."""
    return finish(workspace, tmp_path_factory.mktemp("whole") / "run", *PLAYED)


def test_a_run_trains_on_what_the_agent_had_the_policy_say(whole):
    for step in metrics_of(whole):
        assert step["turns/ended_stop"] == 8
        assert step["turns/mean"] == 2
        assert step["optim/grad_norm"] > 0
        assert step["mismatch/max"] < 1e-4
    lines = (whole / "samples" / "step_000001.jsonl").read_text().splitlines()
    for sample in map(json.loads, lines):
        kinds = [turn["kind"] for turn in sample["turns"]]
        assert kinds == ["observation", "model"] * 2
        assert sample["reward"] == float(len(sample["turns"][-1]["text"]) % 2 == 0)


def test_a_run_that_is_killed_goes_on_to_the_bit(workspace, tmp_path, whole):
    killed = tmp_path / "killed"
    with start(workspace, killed, *PLAYED) as running:
        running.wait_for(lambda: any((killed / "checkpoints").glob("step_??????")))
        assert running.is_running, running.log.read_text()
        running.kill()
    assert_same_run(finish(workspace, killed, "run.resume=must", *PLAYED), whole)
