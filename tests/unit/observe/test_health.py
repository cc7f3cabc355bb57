"""Signs that a run learns something else than it should: seen at a bound, and said once."""

import pytest

from megatron_stare.observe.health import SIGNS, Health
from megatron_stare.observe.metrics import METRICS

HEALTHY = {
    "reward/accuracy": 0.4,
    "reward/tail_share": 0.01,
    "reward/signal_share": 0.45,
    "reward/distinct_answers": 4.0,
    "rollout/drawn": 150.0,
    "rollout/completed": 64.0,
    "optim/lr": 1e-6,
}
SICK = {
    "reward/tail_share": {"reward/tail_share": 0.21},
    "reward/signal_share": {"reward/signal_share": 0.09},
    "rollout/drawn": {"rollout/drawn": 321.0},
    "reward/distinct_answers": {"reward/distinct_answers": 1.4},
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
