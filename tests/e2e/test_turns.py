"""A run whose policy has a tool: it trains on its turns, and goes on to the bit when killed."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kills import assert_same_run, finish, kill_and_go_on
from tests.e2e.programs import make_turn_workspace, metrics_of, run_command

pytestmark = pytest.mark.slow

TURNS = (
    # So hot that every token is about as likely: a turn ends, or calls, now and then.
    "rollout.temperature=20",
    *("workflow.format=hermes", "tools.names=['tests.e2e.turn_tools:add']", "data.template=chat"),
    *("rollout.engine=embedded", "rollout.replay_path=null", "rollout.dynamic_sampling=false"),
    *("rollout.max_response_tokens=300", "rollout.turns.max_turns=4", "data.max_prompt_tokens=600"),
    *("train.max_tokens_per_micro_batch=1800", "reward.kind=tests.e2e.turn_tools:is_even"),
    *("log.dump_samples=true", "train.steps=3", "checkpoint.every=1"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_turn_workspace(tmp_path_factory.mktemp("turns"))


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """A run that was left in peace."""
    return finish(workspace, tmp_path_factory.mktemp("whole") / "run", *TURNS)


def test_a_run_trains_on_turns(whole):
    """Of a random policy, whose calls are all invalid: it is told so, and goes on."""
    steps = metrics_of(whole)
    assert len(steps) == 3
    for step in steps:
        ended = [n for name, n in step.items() if name.startswith("turns/ended_")]
        assert sum(ended) == 16
        assert step["turns/mean"] > 1
        assert step["tools/invalid_share"] == 1
        assert step["entropy/turn_2"] > 0
        assert step["optim/grad_norm"] > 0
        assert step["mismatch/max"] < 1e-4
    path = whole / "samples" / "step_000001.jsonl"
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert all('"name": "add"' in sample["prompt"] for sample in samples)
    told = [turn["text"] for s in samples for turn in s["turns"] if turn["kind"] == "notice"]
    assert any("<tool_call>" in text for text in told)


def test_a_run_that_is_killed_goes_on_to_the_bit(workspace, tmp_path, whole):
    found = kill_and_go_on(workspace, tmp_path / "killed", *TURNS)
    assert_same_run(found, whole)


def test_a_step_is_done_again_from_its_dump(workspace, tmp_path, whole):
    replay = f"rollout.replay_path={whole / 'samples' / 'step_000001.jsonl'}"
    changed = ("rollout.engine=replay", replay, "train.steps=1")
    again = finish(workspace, tmp_path / "again", *TURNS, *changed)
    first, replayed = metrics_of(whole)[0], metrics_of(again)[0]
    for name in ("loss/total", "optim/grad_norm", "entropy/turn_1", "turns/mean", "reward/mean"):
        assert replayed[name] == pytest.approx(first[name], rel=1e-6), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tools.names=[]", "workflow.format=hermes with tools.names=[]"),
        ("data.template={prompt}", "workflow.format='hermes' with data.template='{prompt}'"),
        ("eval.data={path: held_out.jsonl}", "with eval.data.template='{prompt}'"),
        ("tools.names=['tests.e2e.turn_tools:sub']", "cannot import tests.e2e.turn_tools:sub"),
        ("workflow.format=code_tag", "expected one tool, which takes `code`"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(workspace, tmp_path, change, message):
    run = tmp_path / "run"
    done = run_command("train", workspace / "train.yaml", *TURNS, f"run.dir={run}", change)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not run.exists()
