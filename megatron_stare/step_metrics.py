"""The numbers of a step, reduced over the ranks. Meanings are in observe/metrics.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.batch_stats import BatchStats
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.quadrants import quadrants
from megatron_stare.algorithms.stare import StareDecision, StareSelection
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.step import UpdateResult
from megatron_stare.token_terms import LocalTokens


def token_metrics(
    scores: TokenScores, tokens: LocalTokens, selection: StareSelection, decision: StareDecision
) -> dict[str, float]:
    """Entropy, STARE, quadrant and train/rollout mismatch metrics over the global batch.

    `scores` are of the policy before the update, `[r]`.
    """
    stats = tokens.stats
    return {
        "entropy/mean": float(stats.mean(scores.entropies)),
        "entropy/surprisal_mean": float(stats.mean(-scores.logprobs)),
        "stare/gate": float(decision.gate_on),
        "stare/w": decision.w,
        "stare/m": decision.m,
        "stare/threshold_positive": selection.threshold_positive,
        "stare/threshold_negative": selection.threshold_negative,
        "stare/selected_share": float(stats.mean(selection.mask)),
        **_quadrant_metrics(scores.entropies, tokens, selection),
        **_mismatch_metrics(scores.logprobs, tokens.rollout_logprobs, stats),
    }


def update_metrics(results: Sequence[UpdateResult]) -> dict[str, float]:
    """Loss, clip shares, correction and optimizer; means over the updates of the step."""
    tokens = sum(result.sums["loss_tokens"] for result in results)

    def share(name: str) -> float:
        return sum(result.sums[name] for result in results) / tokens

    def mean(name: str) -> float:
        return sum(getattr(result, name) for result in results) / len(results)

    return {
        "loss/total": mean("loss"),
        "loss/clip_low_share": share("clip_low"),
        "loss/clip_high_share": share("clip_high"),
        "loss/dual_clip_share": share("dual_clip"),
        "loss/kl_reference": share("kl_reference"),
        "mismatch/corrected_share": share("corrected"),
        "mismatch/correction_mean": share("correction"),
        "optim/grad_norm": mean("grad_norm"),
        "optim/lr": results[-1].lr,
        "optim/skipped": float(sum(result.skipped for result in results)),
    }


def _quadrant_metrics(
    entropies: Tensor, tokens: LocalTokens, selection: StareSelection
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name, members in quadrants(tokens.advantages, selection).items():
        metrics[f"quadrant/{name}_share"] = float(tokens.stats.mean(members))
        metrics[f"quadrant/{name}_entropy"] = float(tokens.stats.mean(entropies, where=members))
    return metrics


def _mismatch_metrics(
    logprobs: Tensor, rollout_logprobs: Tensor, stats: BatchStats
) -> dict[str, float]:
    """How far the trainer's log-probs are from the engine's; NaN where the engine gave none."""
    differences = logprobs - rollout_logprobs
    largest = stats.max(differences.abs())
    if largest.isnan():
        return {f"mismatch/{name}": math.nan for name in ("kl", "mean", "max", "p999", "ess")}
    ratios = importance_ratios(differences.double())
    one_in_1000 = (stats.count() * 0.001).ceil().long()
    return {
        "mismatch/kl": -float(stats.mean(differences)),
        "mismatch/mean": float(stats.mean(differences.abs())),
        "mismatch/max": float(largest),
        "mismatch/p999": float(stats.kth(differences.abs(), one_in_1000)),
        "mismatch/ess": float(stats.mean(ratios).square() / stats.mean(ratios.square())),
    }
