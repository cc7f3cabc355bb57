"""A run whose policy plays both sides of a game: it trains on its turns, and goes on to the bit."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kills import assert_same_run, finish, kill_and_go_on
from tests.e2e.programs import SHORT_TURNS, make_turn_workspace, metrics_of

pytestmark = pytest.mark.slow

GAME = "{environment: {name: 'tests.unit.environments.games:Parity'}, size: 6}"
PLAYED = (
    # So hot that every token is about as likely: a turn ends now and then.
    *("rollout.temperature=20", "data.template=chat", f"data.sources={{games: {GAME}}}"),
    *("data.path=null", "environments.workers=1", "algorithm={method: mars}"),
    *SHORT_TURNS,
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_turn_workspace(tmp_path_factory.mktemp("environments"))


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """A run that was left in peace."""
    return finish(workspace, tmp_path_factory.mktemp("whole") / "run", *PLAYED)


def test_a_run_trains_on_what_turns_have_earned(whole):
    for step in metrics_of(whole):
        ended = [n for name, n in step.items() if name.startswith("turns/ended_")]
        assert sum(ended) == 8
        assert step["optim/grad_norm"] > 0
        assert step["mismatch/max"] < 1e-4
        assert "reward/failures" not in step or step["reward/failures"] == 0
    lines = (whole / "samples" / "step_000001.jsonl").read_text().splitlines()
    for sample in map(json.loads, lines):
        own = [turn for turn in sample["turns"] if turn["kind"] == "model"]
        assert {turn["role"] for turn in own[::2]} == {"player_1"}
        first = [turn["reward"] for turn in own if turn["role"] == own[0]["role"]]
        assert sample["reward"] == sum(first)
        for turn, said in zip(own, sample["turns"][1::2], strict=False):
            assert said["text"] == f"{len(turn['text'])} characters"


def test_a_run_that_is_killed_goes_on_to_the_bit(workspace, tmp_path, whole):
    found = kill_and_go_on(workspace, tmp_path / "killed", *PLAYED)
    assert_same_run(found, whole)
