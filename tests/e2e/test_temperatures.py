"""Tokens that are drawn, and learned from, at temperatures of their own."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kills import numbers_of
from tests.e2e.programs import make_workspace, metrics_of, succeed

pytestmark = pytest.mark.slow

HAPO = (
    *("algorithm.method=hapo", "rollout.engine=embedded", "rollout.replay_path=null"),
    *("rollout.dynamic_sampling=false", "rollout.max_response_tokens=24"),
    *("rollout.temperature=0.9", "train.updates_per_step=2"),
    "reward.overlong_buffer_tokens=24",  # So early, answers are all wrong: let length matter.
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three steps, and two with a third in another process."""
    workspace = make_workspace(tmp_path_factory.mktemp("temperatures"), num_hidden_layers=2)
    through, apart = workspace / "through", workspace / "apart"
    for folder, steps in ((through, 3), (apart, 2), (apart, 3)):
        command = ("train", workspace / "train.yaml", f"run.dir={folder}", *HAPO)
        succeed(*command, f"train.steps={steps}")
    return through, apart


def temperatures(run, step: int) -> list[float]:
    lines = (run / "samples" / f"step_{step:06d}.jsonl").read_text().splitlines()
    return [each for line in lines for each in json.loads(line)["temperatures"]]


def test_they_move_from_the_second_step_on_by_as_much_as_the_link_says(runs):
    first, *later = (temperatures(runs[0], step) for step in (1, 2, 3))
    assert first == pytest.approx([0.9] * len(first))
    for step in later:
        assert 0.9 * 0.95 - 1e-6 <= min(step) < 0.89
        assert 0.91 < max(step) <= 0.9 * 1.05 + 1e-6


def test_the_trainer_s_logprobs_are_the_engine_s(runs):
    for metrics in metrics_of(runs[0]):
        assert metrics["mismatch/max"] < 1e-4


def test_a_run_that_goes_on_draws_as_it_would_have(runs):
    through, apart = map(numbers_of, runs)
    assert apart == through
    assert temperatures(runs[0], 3) == temperatures(runs[1], 3)
