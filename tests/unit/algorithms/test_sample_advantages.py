"""Advantages of published methods beyond their golden numbers: what holds for any rewards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.offline import run_links, run_loss

OF_DEVIATIONS = (
    *("opo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "qae", "gpg", "a_grae"),
    {"canon": {"metric": "length", "max_length": 1}},
)


def samples_of(rewards: list[float], groups: list[int] | None = None) -> list[dict[str, Any]]:
    groups = groups or [0] * len(rewards)
    return [
        {"reward": r, "group": g, "logprobs": [-1.0] * (1 + i), "entropies": [i / 8] * (1 + i)}
        for i, (r, g) in enumerate(zip(rewards, groups, strict=True))
    ]


def advantages(link: Any, samples: list[dict[str, Any]]) -> list[float]:
    """Of each sample."""
    credit, _ = run_links([link], samples)
    return [row[0] for row in credit["advantages"]]


@pytest.mark.parametrize("link", OF_DEVIATIONS, ids=str)
@pytest.mark.parametrize("rewards", [[0.3] * 7, [0.1 + 0.2, 0.3, 0.3], [1.0] * 4])
def test_rewards_equal_up_to_rounding_have_advantage_exactly_zero(link, rewards):
    assert advantages(link, samples_of(rewards)) == [0.0] * len(rewards)


def test_a_virtual_sample_changes_nothing_where_all_are_right():
    assert advantages("ngrpo", samples_of([0.1 + 0.2 + 0.7, 1.0, 1.0])) == [0.0] * 3


@pytest.mark.parametrize("metric", ["entropy", "length"])
def test_halves_that_count_alike_are_the_plain_deviation(metric):
    samples = samples_of([1, 0, 1, 1, 0, 0, 1, 0], [0, 0, 1, 0, 1, 1, 0, 1])
    canon = {"canon": {"metric": metric, "mu": 0.5, "max_length": 1}}
    assert advantages(canon, samples) == pytest.approx(advantages("dr_grpo", samples))


@pytest.mark.parametrize(("quantile", "right"), [(0.07, 93), (0.4, 60), (0.5, 50), (0.9, 10)])
def test_the_quantile_takes_no_turn_from_rounding(quantile, right):
    """Up to a share 1 - K of right samples they alone are learned from, above it the others."""
    link = {"qae": {"quantile": quantile}}
    at = advantages(link, samples_of([1] * right + [0] * (100 - right)))
    above = advantages(link, samples_of([1] * (right + 1) + [0] * (99 - right)))
    assert (min(at), max(above)) == (0, 0)
    assert max(at) > 0 > min(above)


@pytest.mark.parametrize(("method", "reward"), [("psr", 0), ("nsr", 1)])
def test_a_batch_without_the_polarity_learns_nothing(method, reward):
    samples = samples_of([reward] * 3)
    credit, _ = run_links(method, samples)
    outcome = run_loss(method, samples, credit)
    assert outcome.loss == 0
    assert not any(map(any, outcome.gradients))


def test_what_is_said_of_groups_is_said_of_their_samples():
    groups = Groups(torch.tensor([7, 3, 7, 7]))
    values = torch.tensor([2.0, 9.0, 1.0, 2.0], dtype=torch.float64)
    assert groups.size.tolist() == [3, 1, 3, 3]
    assert groups.ranks(values).tolist() == [1, 0, 0, 2]
    assert groups.mean_of_groups(groups.sum(values)).item() == pytest.approx(7)
    assert groups.std(values).tolist() == pytest.approx([1 / 3**0.5, 0, 1 / 3**0.5, 1 / 3**0.5])
