"""A run whose episodes an agent plays, over the endpoint: it trains on what it has said."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kills import assert_same_run, finish, kill_and_go_on
from tests.e2e.programs import SHORT_TURNS, make_turn_workspace, metrics_of

pytestmark = pytest.mark.slow

PLAYED = (
    *("workflow.agent.function=tests.e2e.agent_of_tests:talk", "rollout.temperature=20"),
    *("workflow.format=null", "tools.names=[]", "data.template='{prompt}'"),
    *SHORT_TURNS,
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
    found = kill_and_go_on(workspace, tmp_path / "killed", *PLAYED)
    assert_same_run(found, whole)
