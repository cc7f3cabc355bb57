"""The numbers of a step, reduced over the ranks. Meanings are in observe/metrics.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.losses import importance_ratios
from megatron_stare.algorithms.quadrants import QUADRANTS, quadrant_sums
from megatron_stare.algorithms.stare import StareDecision, StareSelection
from megatron_stare.ops.partials import TokenScores
from megatron_stare.ops.selection import global_kth_value
from megatron_stare.policy.step import UpdateResult
from megatron_stare.token_terms import LocalTokens


def token_metrics(
    scores: TokenScores,
    tokens: LocalTokens,
    selection: StareSelection,
    decision: StareDecision,
    group: dist.ProcessGroup,
) -> dict[str, float]:
    """Entropy, STARE, quadrant and train/rollout mismatch metrics over the global batch.

    `scores` are of the policy before the update, `[r]`; `group` is the data-parallel group.
    """
    mask = tokens.mask
    selected = selection.mask.sum()
    num_tokens, entropy, surprisal, selected = _reduce(
        [mask.sum(), scores.entropies[mask].sum(), -scores.logprobs[mask].sum(), selected], group
    )
    return {
        "entropy/mean": entropy / num_tokens,
        "entropy/surprisal_mean": surprisal / num_tokens,
        "stare/gate": float(decision.gate_on),
        "stare/w": decision.w,
        "stare/m": decision.m,
        "stare/threshold_positive": selection.threshold_positive,
        "stare/threshold_negative": selection.threshold_negative,
        "stare/selected_share": selected / num_tokens,
        **_quadrant_metrics(scores, tokens, selection, num_tokens, group),
        **_mismatch_metrics(scores.logprobs[mask], tokens.rollout_logprobs[mask], group),
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
    scores: TokenScores,
    tokens: LocalTokens,
    selection: StareSelection,
    num_tokens: float,
    group: dist.ProcessGroup,
) -> dict[str, float]:
    sums = quadrant_sums(scores.entropies, tokens.advantages, selection)
    counts, entropies = torch.tensor(_reduce(list(sums.flatten()), group)).view(2, 4).tolist()
    metrics: dict[str, float] = {}
    for name, count, entropy in zip(QUADRANTS, counts, entropies, strict=True):
        metrics[f"quadrant/{name}_share"] = count / num_tokens
        metrics[f"quadrant/{name}_entropy"] = entropy / count if count else math.nan
    return metrics


def _mismatch_metrics(
    logprobs: Tensor, rollout_logprobs: Tensor, group: dist.ProcessGroup
) -> dict[str, float]:
    """How far the trainer's log-probs are from the engine's; NaN where the engine gave none."""
    difference = (logprobs - rollout_logprobs).abs()
    ratios = importance_ratios((logprobs - rollout_logprobs).double())
    count, total, kl, ratio, squared_ratio = _reduce(
        [
            torch.tensor(difference.numel(), device=difference.device),
            difference.sum(),
            (rollout_logprobs - logprobs).sum(),
            ratios.sum(),
            ratios.square().sum(),
        ],
        group,
    )
    if math.isnan(total):
        return {f"mismatch/{name}": math.nan for name in ("kl", "mean", "max", "p999", "ess")}
    return {
        "mismatch/kl": kl / count,
        "mismatch/mean": total / count,
        "mismatch/max": global_kth_value(difference, 1, group=group),
        "mismatch/p999": global_kth_value(difference, math.ceil(count * 0.001), group=group),
        "mismatch/ess": ratio**2 / (count * squared_ratio),
    }


def _reduce(values: Sequence[Tensor], group: dist.ProcessGroup) -> list[float]:
    """Sums over a group, in one reduction."""
    total = torch.stack([value.double() for value in values])
    dist.all_reduce(total, group=group)
    return total.tolist()
