"""Metrics of a step's updates."""

import math

import torch

from megatron_stare.algorithms.credit import Credit
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.step import UpdateResult
from megatron_stare.run.step_metrics import credit_metrics, token_metrics, update_metrics
from tests.contract import Batch, random_batch

EVERYONE = range(20)


def result(tokens: float, clipped: float) -> UpdateResult:
    sums = {"loss_tokens/0": tokens, "loss/clip_low_share": clipped}
    return UpdateResult(0.5, 1.0, 1e-6, False, sums, TokenScores(*[torch.zeros(0)] * 4))


def test_shares_are_of_all_tokens_that_the_updates_count():
    metrics = update_metrics([result(6, 3), result(2, 1)])
    assert metrics["loss/clip_low_share"] == 0.5
    assert (metrics["loss/total"], metrics["optim/skipped"]) == (0.5, 0)


def test_a_step_that_counts_no_token_has_no_shares():
    """As where only right samples are learned from, and none is."""
    assert math.isnan(update_metrics([result(0, 0)])["loss/clip_low_share"])


def test_metrics_of_tokens_do_not_know_what_is_under_the_mask():
    """Which may be anywhere, as what tools said is; NaN as its log-prob of the engine."""
    batch = random_batch(seed=2)
    more, _ = batch.with_masked_tokens(seed=3)

    def measured(batch: Batch) -> dict[str, float]:
        return token_metrics(batch.step(1, EVERYONE, None))

    assert measured(more) == measured(batch)


def test_entropy_is_told_turn_by_turn():
    batch = random_batch(seed=2)
    metrics = token_metrics(batch.step(1, EVERYONE, None))
    turns, mask = batch.rollouts.turn_numbers, batch.rollouts.loss_mask
    for number in range(6):
        expected = batch.entropies[mask & (turns == number)].double().mean()
        assert abs(metrics[f"entropy/turn_{number + 1}"] - expected) < 1e-12
    assert "entropy/turn_7" not in metrics


def test_groups_whose_tokens_have_no_advantage_are_counted():
    batch = random_batch(seed=2)
    step = batch.step(1, EVERYONE, None)
    groups = batch.rollouts.group_ids
    is_first = (groups == groups[0])[batch.rollouts.sample_ids]
    ones = torch.ones(len(is_first))
    credit = Credit(~is_first * step.mask * ones, ones, step.mask, ones, ones)
    share = credit_metrics(step, credit)["reward/zero_advantage_share"]
    has_tokens = {int(g) for g in groups[batch.rollouts.sample_ids][step.mask]}
    empty = len(set(groups.tolist()) - has_tokens - {int(groups[0])})
    assert share == (1 + empty) / len(set(groups.tolist()))
