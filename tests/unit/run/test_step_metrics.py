"""Metrics of a step's updates."""

import math

import torch

from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.step import UpdateResult
from megatron_stare.run.step_metrics import update_metrics


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
