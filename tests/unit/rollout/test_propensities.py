"""With what probability a problem was drawn, and what that says of those that were not."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb
from random import Random

import pytest

from megatron_stare.algorithms.beta import beta_cdf
from megatron_stare.algorithms.curricula.vade import Beliefs, Vade
from megatron_stare.observe.metrics import find_metric
from megatron_stare.rollout.curated import Curated
from megatron_stare.rollout.dump import dump_samples
from megatron_stare.rollout.statistics import propensity_statistics
from tests.unit.rollout.problems import make_group, make_prompt_set

BELIEFS = Beliefs({0: (9.0, 2.0), 1: (2.0, 3.0), 2: (1.5, 1.2), 3: (20.0, 1.0), 4: (5.0, 5.0)})


@pytest.mark.parametrize(("x", "a", "b"), [(0.3, 4, 6), (0.9, 4, 6), (0.5, 30, 5), (0.01, 1, 40)])
def test_a_beta_distribution_is_a_tail_of_a_binomial_one(x, a, b):
    n = a + b - 1
    tail = sum(comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    assert beta_cdf(x, a, b) == pytest.approx(tail, rel=1e-12)
    assert (beta_cdf(0.0, a, b), beta_cdf(1.0, a, b)) == (0, 1)


@pytest.mark.parametrize(("count", "uniform"), [(2, 0.5), (3, 0.34), (1, 0.0)])
def test_sums_over_propensities_are_those_of_all_problems(count, uniform):
    """Horvitz and Thompson's estimate is right on average, and of each problem by itself."""
    curriculum, draws = Vade(uniform=uniform), 4000
    totals = dict.fromkeys(range(6), 0.0)
    for seed in range(draws):
        drawn = curriculum.draw(count, range(6), BELIEFS, Random(seed))
        assert len(drawn) == count
        for problem, propensity in drawn.items():
            assert 0 < propensity <= 1
            totals[problem] += 1 / propensity / draws
    # Without a share drawn at random, problem 3 is drawn about once in a thousand times.
    checked = [total for problem, total in totals.items() if uniform or problem != 3]
    assert checked == pytest.approx([1] * len(checked), abs=0.15)


def test_what_is_drawn_for_certain_or_by_chance_alone_says_so():
    assert Vade().draw(3, range(3), BELIEFS, Random(0)) == dict.fromkeys(range(3), 1)
    drawn = Vade(uniform=1).draw(2, range(8), BELIEFS, Random(0))
    assert [*drawn.values()] == [0.25, 0.25]
    certain = Beliefs({0: (1e6, 1.0), **dict.fromkeys((1, 2, 3), (50.0, 50.0))})
    asked = (Vade(uniform=0.5).draw(2, range(4), certain, Random(seed)) for seed in range(20))
    believed_solved = [draw[0] for draw in asked if 0 in draw]
    assert believed_solved == pytest.approx([1 / 3] * len(believed_solved))
    assert believed_solved


def test_each_prompt_has_its_own_and_it_is_dumped(tmp_path):
    drawn = Curated(make_prompt_set(tmp_path, list("abcdef")), {"vade": Vade()}, seed=3)
    prompts = drawn.draw(2)
    assert all(prompt.propensity and 0 < prompt.propensity < 1 for prompt in prompts)
    groups = [make_group(prompt, [1, 0]) for prompt in prompts]
    dump_samples(tmp_path / "step.jsonl", groups, [0.0] * 4)
    lines = [json.loads(line) for line in (tmp_path / "step.jsonl").read_text().splitlines()]
    assert [line["propensity"] for line in lines[::2]] == [p.propensity for p in prompts]
    (plain,) = make_prompt_set(tmp_path, ["a"]).draw(1)
    assert plain.propensity is None
    assert propensity_statistics([make_group(plain, [1, 0])]) == {}


def test_accuracy_of_all_problems_is_that_of_those_drawn_by_their_propensities(tmp_path):
    """By hand: (0.5 / 0.2 + 1 / 0.8) / (1 / 0.2 + 1 / 0.8) = 0.6."""
    first, second = make_prompt_set(tmp_path, ["a", "b"]).draw(2)
    judged = [
        make_group(replace(first, propensity=0.2), [1, 0]),
        make_group(replace(second, propensity=0.8), [1, 1]),
    ]
    found = propensity_statistics(judged)
    assert found == {"reward/accuracy_of_all": pytest.approx(0.6), "rollout/propensity_min": 0.2}
    assert all(map(find_metric, found))
