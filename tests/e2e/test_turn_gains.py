"""Runs whose turns earn what they have found out: of the answer, and of the turn behind them."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kills import assert_same_run, finish, kill_and_go_on
from tests.e2e.programs import make_turn_workspace, metrics_of
from tests.e2e.test_turns import TURNS

pytestmark = pytest.mark.slow

OF_THE_ANSWER = (*TURNS, "algorithm.method=igpo", "rollout.turn_gains.of=answer")
OF_THE_NEXT_TURN = (*TURNS, "algorithm.method=infopo", "rollout.turn_gains.of=next_turn")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_turn_workspace(tmp_path_factory.mktemp("gains"))


@pytest.mark.parametrize("settings", [OF_THE_ANSWER, OF_THE_NEXT_TURN])
def test_turns_but_the_last_earn_something_and_are_learned_from(workspace, tmp_path, settings):
    run = finish(workspace, tmp_path / "run", *settings)
    for step in metrics_of(run):
        assert step["optim/grad_norm"] > 0
    texts = [path.read_text(encoding="utf-8") for path in sorted(run.glob("samples/*.jsonl"))]
    rewards = []
    for sample in map(json.loads, "".join(texts).splitlines()):
        *before, last = [turn["reward"] for turn in sample["turns"] if turn["kind"] == "model"]
        assert last == 0
        rewards += before
    assert len(rewards) > 1
    assert all(rewards), "a turn of a random policy has gained exactly nothing"


def test_a_run_that_is_killed_goes_on_to_the_bit(workspace, tmp_path):
    whole = finish(workspace, tmp_path / "whole", *OF_THE_ANSWER)
    assert_same_run(kill_and_go_on(workspace, tmp_path / "killed", *OF_THE_ANSWER), whole)
