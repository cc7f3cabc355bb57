"""Runs whose verifier dies of some responses: they learn from the rest, in every way to run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.kills import assert_same_run, finish, numbers_of, start
from tests.e2e.programs import make_workspace
from tests.e2e.test_resume import EMBEDDED, num_samples_banked

pytestmark = pytest.mark.slow

DYING = (
    *(*EMBEDDED, "reward.kind=tests.e2e.verifiers:dies_of_some", "reward.workers=2"),
    "algorithm.filters=[]",
    *("rollout.prompts_per_step=4", "rollout.max_rounds=10", "eval.max_prompts=6"),
    *("checkpoint.every=4", "log.dump_samples=true", "train.updates_per_step=2"),
    *("algorithm.kl=k3", "algorithm.kl_coef=0.01"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("lost"), num_hidden_layers=2)


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    return finish(workspace, tmp_path_factory.mktemp("whole") / "run", *DYING)


def dump_of(run: Path, step: int) -> list[dict]:
    path = run / "samples" / f"step_{step:06d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_lost_is_counted_and_trained_on_by_nobody(whole):
    steps = [step for step in numbers_of(whole) if "reward/failures" in step]
    sizes = Counter()
    for number, step in enumerate(steps, start=1):
        samples = dump_of(whole, number)
        lost = [s for s in samples if s["reward"] is None]
        assert step["reward/failures"] == len(lost) == sum(bool(s["failure"]) for s in samples)
        assert {s["failure"] for s in lost} <= {"process died (exit code 3)"}
        assert all(s["correct"] is None and s["advantage"] is None for s in lost)
        judged = [s for s in samples if s["reward"] is not None]
        assert step["reward/mean"] == pytest.approx(sum(s["reward"] for s in judged) / len(judged))
        kept = [s for s in judged if s["kept"]]
        assert all(s["advantage"] is not None for s in kept)
        groups = Counter(s["group"] for s in kept)
        assert sorted(groups) == [0, 1, 2, 3]
        assert step["rollout/completed"] == 4
        endings = ("completed", "filtered", "failed", "aborted", "carried")
        assert step["rollout/drawn"] == sum(step[f"rollout/{ending}"] for ending in endings)
        sizes.update(groups.values())
    assert min(sizes) >= 2
    assert len(sizes) > 1, "groups of one size alone"
    assert any(step["eval/failures"] for step in numbers_of(whole) if "eval/failures" in step)


def test_a_run_that_was_killed_goes_on_to_the_bit(workspace, tmp_path, whole):
    killed = tmp_path / "killed"
    with start(workspace, killed, *DYING) as running:
        running.wait_for(lambda: num_samples_banked(killed, 3) >= 6)
        running.kill()
    assert_same_run(finish(workspace, killed, *DYING), whole)


def test_verdicts_are_the_same_in_processes_of_their_own(workspace, tmp_path, whole):
    isolated = finish(workspace, tmp_path / "isolated", *DYING, "reward.isolation=process")
    assert_same_run(isolated, whole)


def test_groups_of_any_size_are_the_same_on_two_ranks(workspace, tmp_path):
    one, two = (
        numbers_of(finish(workspace, tmp_path / str(n), *DYING, "train.steps=1", processes=n))[1]
        for n in (1, 2)
    )
    assert one.keys() == two.keys()
    for name in one.keys() - {"eval/response_tokens_mean", "eval/truncated_share"}:
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
