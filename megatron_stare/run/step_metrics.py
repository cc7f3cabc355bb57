"""The numbers of a step, reduced over the ranks. Meanings are in observe/metrics.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.algorithms.objective import COUNT
from megatron_stare.policy.step import UpdateResult


def token_metrics(step: Step) -> dict[str, float]:
    """Entropy and train/rollout mismatch over the global batch, before the update."""
    scores, stats = step[OLD], step.stats
    return {
        "entropy/mean": float(stats.mean(scores.entropies)),
        "entropy/surprisal_mean": float(stats.mean(-scores.logprobs)),
        **_entropy_by_turn(step),
        **_mismatch_metrics(step),
    }


def credit_metrics(step: Step, credit: Credit) -> dict[str, float]:
    """Of how many groups of the batch nothing is learned."""
    largest = step.by(Grouping.by_group).max(credit.advantages.abs())
    return {"reward/zero_advantage_share": float((largest.nan_to_num() == 0).double().mean())}


def update_metrics(results: Sequence[UpdateResult]) -> dict[str, float]:
    """Loss, the shares of its terms, and the optimizer; means over the updates of the step."""
    shares: dict[str, float] = {}
    tokens = 0.0
    for name in results[0].sums:  # A count, then what is counted over.
        total = sum(result.sums[name] for result in results)
        if name.startswith(COUNT):
            tokens = total
        else:
            shares[name] = total / tokens if tokens else math.nan

    def mean(name: str) -> float:
        return sum(getattr(result, name) for result in results) / len(results)

    return {
        "loss/total": mean("loss"),
        **shares,
        "optim/grad_norm": mean("grad_norm"),
        "optim/lr": results[-1].lr,
        "optim/skipped": float(sum(result.skipped for result in results)),
    }


def _entropy_by_turn(step: Step) -> dict[str, float]:
    """Of the model's first turn, its second, and so on; nothing where all samples are single."""
    if step.rollouts.turns is None:
        return {}
    means = step.by(Grouping.by_turn_number).mean(step[OLD].entropies)
    return {f"entropy/turn_{number}": mean for number, mean in enumerate(means.tolist(), start=1)}


def _mismatch_metrics(step: Step) -> dict[str, float]:
    """How far the trainer's log-probs are from the engine's; NaN where the engine gave none."""
    if not step.knows(ROLLOUT):
        return {f"mismatch/{name}": math.nan for name in ("kl", "mean", "max", "p999", "ess")}
    stats, differences = step.stats, step[OLD].logprobs - step[ROLLOUT]
    ratios = importance_ratios(differences.double())
    one_in_1000 = (stats.count() * 0.001).ceil().long()
    return {
        "mismatch/kl": -float(stats.mean(differences)),
        "mismatch/mean": float(stats.mean(differences.abs())),
        "mismatch/max": float(stats.max(differences.abs())),
        "mismatch/p999": float(stats.kth(differences.abs(), one_in_1000)),
        "mismatch/ess": float(stats.mean(ratios).square() / stats.mean(ratios.square())),
    }
