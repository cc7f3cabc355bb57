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


class Groups:
    """Which samples share a prompt: what is said of the group of each sample, `[B]`.

        >>> groups = Groups(torch.tensor([7, 3, 7]))
        >>> groups.mean(torch.tensor([0.0, 5.0, 1.0]))
        tensor([0.5000, 5.0000, 0.5000])

    Args:
        ids: int64 `[B]`, in any order.
    """

    def __init__(self, ids: Tensor) -> None:
        self._of = ids.unique(return_inverse=True)[1]
        self._sizes = self._of.bincount()
        self.size = self._sizes[self._of]
        """G, int64 `[B]`."""
        self.is_single = self.size == 1
        """Whether the sample is its group, bool `[B]`."""

    def sum(self, values: Tensor) -> Tensor:
        """The group's sum of values `[B]`."""
        return values.new_zeros(len(self._sizes)).index_add_(0, self._of, values)[self._of]

    def max(self, values: Tensor) -> Tensor:
        """The group's largest of values `[B]`."""
        start = values.new_full((len(self._sizes),), -torch.inf)
        return start.scatter_reduce_(0, self._of, values, "amax")[self._of]

    def mean(self, values: Tensor) -> Tensor:
        """The group's mean of values `[B]`."""
        return self.sum(values) / self.size

    def centred(self, values: Tensor) -> Tensor:
        """Values `[B]` minus the group's mean; 0 where that is rounding."""
        return without_rounding(values - self.mean(values), values)

    def std(self, values: Tensor) -> Tensor:
        """The group's unbiased standard deviation of values `[B]`; 0 of a single one."""
        squares = self.sum(self.centred(values).square())
        return (squares / (self.size - 1).clamp(min=1)).sqrt()

    def ranks(self, values: Tensor) -> Tensor:
        """Places of values `[B]` in their groups, ascending from 0; ties as in the batch."""
        order = values.argsort(stable=True)
        order = order[self._of[order].argsort(stable=True)]
        starts = self._sizes.cumsum(0) - self._sizes
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order)) - starts[self._of[order]]
        return places

    def mean_of_groups(self, of_groups: Tensor) -> Tensor:
        """The mean over groups of what is said of each, `[B]`; a number."""
        return (of_groups / self.size).sum() / max(1, len(self._sizes))


def without_rounding(deviations: Tensor, values: Tensor) -> Tensor:
    """Deviations of values from a mean, `[n]` each: exactly 0 where that is rounding."""
    return deviations.masked_fill(deviations.abs() <= ROUNDING * values.abs().clamp(min=1.0), 0.0)


class _Deviations(NamedTuple):
    """Rewards against their groups, float64 `[B]` each."""

    reward: Tensor
    """Minus the group's mean."""
    scale: Tensor
    """The group's std, unbiased, and eps."""
    size: Tensor
    """G, of the group."""


def group_advantages(
    rewards: Tensor, group_ids: Tensor, kind: str = "grpo", *, eps: float = GRPO_EPS
) -> Tensor:
    """Advantage of each sample against its group, in the rewards' dtype, `[B]`.

        >>> rewards, groups = torch.tensor([1.0, 0.0, 5.0, 5.0]), torch.tensor([7, 7, 9, 9])
        >>> group_advantages(rewards, groups, "dr_grpo").tolist()
        [0.5, -0.5, 0.0, 0.0]

    Args:
        rewards: float `[B]`.
        group_ids: int64 `[B]`; samples of one prompt share an id, in any order.
        kind: a key of `ADVANTAGES`.
        eps: added to the std, where one divides by it.
    """
    return ADVANTAGES[kind](_deviations(rewards.double(), group_ids, eps)).to(rewards.dtype)


def grpo(deviations: _Deviations) -> Tensor:
    """(r - mean) / (std + eps), unbiased std (DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""
    return deviations.reward / deviations.scale


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


def _deviations(rewards: Tensor, group_ids: Tensor, eps: float) -> _Deviations:
    groups = Groups(group_ids)
    mean = groups.mean(rewards).masked_fill(groups.is_single, 0.0)
    deviation = without_rounding(rewards - mean, rewards)
    std = groups.std(rewards).masked_fill(groups.is_single, 1.0)
    return _Deviations(deviation, std + eps, groups.size)
