"""A run with a user's links: it trains, remembers over a crash, and is not mistaken for another."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.e2e.kills import assert_same_run, finish, kill_and_go_on
from tests.e2e.programs import REPO, make_workspace, metrics_of, run_command, succeed

pytestmark = pytest.mark.slow

REMEMBERING = "examples.own_method.memory:RunningHesitation"
OWN = (
    *(f"algorithm.links=[grpo, '{REMEMBERING}']", "algorithm.RunningHesitation.rate=0.3"),
    *("train.steps=12", "checkpoint.every=1"),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("own_method"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """A run that was left in peace."""
    return finish(workspace, tmp_path_factory.mktemp("whole") / "run", *OWN)


def test_a_link_remembers_from_step_to_step(whole):
    steps = metrics_of(whole)
    seen = [step["own/running_entropy"] for step in steps]
    assert seen[0] == pytest.approx(steps[0]["entropy/mean"])
    for (before, now), step in zip(pairwise(seen), steps[1:], strict=True):
        assert now == pytest.approx(before + 0.3 * (step["entropy/mean"] - before))
        assert now != before


def test_a_run_that_is_killed_goes_on_to_the_bit(workspace, tmp_path, whole):
    found = kill_and_go_on(workspace, tmp_path / "killed", *OWN)
    assert_same_run(found, whole)


@pytest.mark.parametrize("links", ["[grpo]", "[grpo, 'examples.own_method.weights:Hesitation']"])
def test_it_does_not_go_on_with_another_chain(workspace, tmp_path, whole, links):
    more = ("train.steps=14", "run.resume=must", f"run.dir={whole}")
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    done = run_command("train", workspace / "train.yaml", *more, f"algorithm.links={links}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"algorithm.links={links.replace(chr(39), '')}" in line
    assert f"trained with [grpo, {REMEMBERING}]" in line
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_the_examples_config_trains(workspace, tmp_path):
    """Its algorithm, on recorded samples."""
    config = REPO / "examples" / "own_method" / "train.yaml"
    resolved = succeed("config", config)
    assert "examples.own_method.weights:Hesitation" in resolved
    small = (
        *(f"model.path={workspace / 'model'}", f"data.path={workspace / 'prompts.jsonl'}"),
        *("rollout.engine=replay", f"rollout.replay_path={workspace / 'replay.jsonl'}"),
        *("rollout.prompts_per_step=4", "rollout.samples_per_prompt=4", "reward.kind=exact"),
        *("train.steps=2", "log.progress=false", f"run.dir={tmp_path / 'run'}"),
    )
    succeed("train", config, *small)
    weighed, plain = tmp_path / "run", tmp_path / "plain"
    succeed("train", config, *small, f"run.dir={plain}", "algorithm.links=[grpo]")
    first, unweighed = (metrics_of(run)[0] for run in (weighed, plain))
    assert first["reward/mean"] == unweighed["reward/mean"]
    assert first["optim/grad_norm"] != unweighed["optim/grad_norm"]
