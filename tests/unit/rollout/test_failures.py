"""A verifier that only fails ends the step with its reason; some failures do not."""

from __future__ import annotations

import math

import pytest

from megatron_stare.errors import UserError
from megatron_stare.rollout.failures import check_verifier, failures_of
from megatron_stare.rollout.groups import score_groups
from megatron_stare.types import Group, Reward, RolloutBatch
from tests.unit.rollout.problems import make_group, make_prompt
from tests.unit.rollout.test_sampler import MIXED, collect


class FailingScorer:
    """Fails on the first `num_failing` of every ten samples."""

    def __init__(self, num_failing: int) -> None:
        self._num_failing = num_failing
        self._num_judged = 0

    def score(self, samples) -> list[Reward]:
        rewards = []
        for sample in samples:
            is_failing = self._num_judged % 10 < self._num_failing
            value = float(not is_failing and sample.text == "yes")
            failure = "TypeError: no number" if is_failing else None
            rewards.append(Reward(value, value, failure, 0.0))
            self._num_judged += 1
        return rewards


def groups_of(num_failing: int, num_judged: int) -> list[Group]:
    group = make_group(make_prompt("a"), [0.0] * num_judged)
    failures = [Reward(0.0, 0.0, "deadline of 10 s", 0.0)] * num_failing
    return [Group(group.prompt, group.samples, (*failures, *group.rewards[num_failing:]))]


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_a_verifier_that_fails_throughout_ends_the_step_with_its_reason(tmp_path, dynamic_sampling):
    responses = dict.fromkeys("abcde", MIXED)
    reason = r"reward\.kind: 10 of 10 verifications failed, 10 of them with: TypeError: no number"
    with pytest.raises(UserError, match=reason):
        collect(
            tmp_path,
            FailingScorer(10),
            responses,
            prompts_per_step=5,
            dynamic_sampling=dynamic_sampling,
        )


def test_failures_that_leave_enough_cost_their_samples_only(tmp_path):
    rollout = collect(tmp_path, FailingScorer(3), dict.fromkeys("abcde", MIXED), prompts_per_step=3)
    assert rollout.metrics["reward/failures"] == 3


def test_failures_are_named_where_problems_are_called_too_hard(tmp_path):
    with pytest.raises(UserError, match=r"problems nearer.*; 8 of 10 verifications failed, 8 of"):
        collect(
            tmp_path,
            FailingScorer(8),
            {name: ["no", "no"] for name in "abcde"},
            prompts_per_step=5,
            max_rounds=1,
        )


@pytest.mark.parametrize(("num_failing", "is_refused"), [(0, False), (8, False), (9, True)])
def test_nine_in_ten_failures_are_the_verifiers(num_failing: int, is_refused: bool):
    groups = groups_of(num_failing, 10)
    assert (failures_of(groups) is None) == (num_failing == 0)
    if is_refused:
        with pytest.raises(UserError, match="9 of 10 verifications failed, 9 of them with: dead"):
            check_verifier(groups)
    else:
        check_verifier(groups)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, 1e300])
def test_a_reward_of_any_origin_that_cannot_be_trained_on_is_a_failure(value: float):
    reward = Reward(value, 0.0, None, 0.1)
    assert (reward.value, reward.correct) == (0.0, 0.0)
    assert reward.failure is not None
    assert f"a reward of {value:g}" in reward.failure
    assert Reward(0.0, math.nan, None, 0.1).failure is not None
    prompt = make_prompt("a")
    samples = make_group(prompt, [1.0, 0.0]).samples
    batch = RolloutBatch.from_groups([Group(prompt, samples, (reward, Reward(1, 1, None, 0.1)))])
    assert batch.rewards.tolist() == [0.0, 1.0]


def test_the_largest_reward_is_one():
    assert Reward(1e18, 1.0, None, 0.1).failure is None
    assert score_groups(FailingScorer(0), []) == []
