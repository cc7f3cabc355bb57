"""Advantages of samples from the rewards of their groups. All tensors are per sample, `[B]`.

A group of one has no baseline: mean 0 and std 1, so that it keeps its reward. A reward that equals
its group's mean up to rounding has advantage exactly 0: the sign of an advantage decides what STARE
does with its tokens, and must not come from the last bit of a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

GRPO_EPS = 1e-6
ROUNDING = 1e-6  # of the larger of 1 and the reward; a float32 sum of a few terms errs by less


class _Deviations(NamedTuple):
    """Rewards against their groups, float64 `[B]` each."""

    reward: Tensor
    """Minus the group's mean."""
    std: Tensor
    """Of the group, unbiased."""
    size: Tensor
    """G, of the group."""


def group_advantages(rewards: Tensor, group_ids: Tensor, kind: str = "grpo") -> Tensor:
    """Advantage of each sample against its group, in the rewards' dtype, `[B]`.

    Args:
        rewards: float `[B]`.
        group_ids: int64 `[B]`; samples of one prompt share an id, in any order.
        kind: a key of `ADVANTAGES`.
    """
    return ADVANTAGES[kind](_deviations(rewards.double(), group_ids)).to(rewards.dtype)


def grpo(deviations: _Deviations) -> Tensor:
    """(r - mean) / (std + 1e-6), unbiased std (DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""
    return deviations.reward / (deviations.std + GRPO_EPS)


def dr_grpo(deviations: _Deviations) -> Tensor:
    """r - mean: no division by the std, which favours easy and hard prompts (arXiv 2503.20783)."""
    return deviations.reward


def rloo(deviations: _Deviations) -> Tensor:
    """r minus the mean of the others, G / (G - 1) (r - mean) (arXiv 2402.14740)."""
    return deviations.reward * deviations.size / (deviations.size - 1).clamp(min=1)


ADVANTAGES: dict[str, Callable[[_Deviations], Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
}


def _deviations(rewards: Tensor, group_ids: Tensor) -> _Deviations:
    unique, member_of = group_ids.unique(return_inverse=True)

    def group_sum(values: Tensor) -> Tensor:
        return values.new_zeros(len(unique)).index_add_(0, member_of, values)[member_of]

    size = group_sum(torch.ones_like(rewards))
    is_single = size == 1
    mean = (group_sum(rewards) / size).masked_fill(is_single, 0.0)
    deviation = rewards - mean
    is_rounding = deviation.abs() <= ROUNDING * rewards.abs().clamp(min=1.0)
    deviation = deviation.masked_fill(is_rounding, 0.0)
    variance = group_sum(deviation.square()) / (size - 1).clamp(min=1.0)
    return _Deviations(deviation, variance.sqrt().masked_fill(is_single, 1.0), size)
