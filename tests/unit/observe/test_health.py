"""Signs that a run learns something else than it should: seen at a bound, and said once."""

import numpy as np
import pytest

from megatron_stare.observe.health import SIGNS, Health, signs_of
from megatron_stare.observe.history import Series
from megatron_stare.observe.metrics import METRICS

HEALTHY = {
    "reward/accuracy": 0.4,
    "reward/tail_share": 0.01,
    "reward/signal_share": 0.45,
    "reward/distinct_answers": 4.0,
    "rollout/drawn": 150.0,
    "rollout/completed": 64.0,
    "reward/repeated_share": 0.02,
    "reward/zero_advantage_share": 0.2,
    "rollout/long_token_share": 0.15,
    "rollout/truncated_share": 0.05,
    "optim/lr": 1e-6,
}
SICK = {
    "reward/tail_share": {"reward/tail_share": 0.21},
    "reward/signal_share": {"reward/signal_share": 0.09},
    "rollout/drawn": {"rollout/drawn": 321.0},
    "reward/distinct_answers": {"reward/distinct_answers": 1.4},
    "reward/repeated_share": {"reward/repeated_share": 0.11},
    "reward/zero_advantage_share": {"reward/zero_advantage_share": 0.51},
    "rollout/long_token_share": {"rollout/long_token_share": 0.31},
    "rollout/truncated_share": {"rollout/truncated_share": 0.31},
    "optim/lr": {"optim/lr": 10.0},
}


def test_a_healthy_step_shows_no_sign():
    assert list(Health().news(1, HEALTHY)) == []


@pytest.mark.parametrize("metric", SICK)
def test_a_sign_is_said_with_its_step_name_and_value_and_once(metric):
    health = Health()
    assert list(health.news(1, HEALTHY)) == []
    (line,) = health.news(2, HEALTHY | SICK[metric])
    assert line.startswith(f"step 2: {metric} is {SICK[metric][metric]:.3g}, ")
    assert list(health.news(3, HEALTHY | SICK[metric])) == []
    assert list(health.news(4, HEALTHY)) == []
    assert list(health.news(5, HEALTHY | SICK[metric])) == []


def test_signs_are_independent():
    health = Health()
    assert len(list(health.news(1, HEALTHY | SICK["rollout/drawn"]))) == 1
    everything = HEALTHY | {name: value for sick in SICK.values() for name, value in sick.items()}
    assert len(list(health.news(2, everything))) == len(SIGNS) - 1


def test_a_policy_that_solves_everything_is_not_accused_of_giving_one_answer():
    solved = {"reward/accuracy": 1.0, "reward/signal_share": 0.2, "reward/distinct_answers": 1.0}
    assert list(Health().news(1, HEALTHY | solved)) == []


def test_groups_of_one_sample_cannot_differ():
    alone = {"reward/accuracy": 0.1, "reward/signal_share": 1.0, "reward/distinct_answers": 1.0}
    assert list(Health().news(1, HEALTHY | alone)) == []


def test_a_rollout_without_these_metrics_shows_no_sign():
    assert list(Health().news(1, {"reward/accuracy": 0.0})) == []


def test_signs_are_of_metrics_in_the_glossary():
    assert {sign.metric for sign in SIGNS} == set(SICK) <= set(METRICS)


def test_a_history_has_the_signs_that_the_run_has_said():
    steps = [HEALTHY, HEALTHY | SICK["rollout/drawn"], HEALTHY | SICK["rollout/drawn"]]
    history = {
        name: Series(np.arange(1, 4), np.array([step[name] for step in steps])) for name in HEALTHY
    }
    history["eval/avg_at_k"] = Series(np.array([0]), np.array([0.5]))
    (line,) = signs_of(history)
    assert line.startswith("step 2: rollout/drawn is 321, more than 5")
