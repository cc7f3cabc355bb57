"""CANON: a group's halves by entropy or length, compared with each other."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, without_rounding
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Need, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.schedules import Waves
from megatron_stare.system.values import Count, Weight


class Canon(Link[None]):
    """A = (mu (r - mean of the other half) + (1 - mu) (r - mean of its own)) / max_length.

    Halves are of the group by metric; the upper one has the odd sample, and ties stand as in the
    batch. Between halves the favoured one has r - alpha mean + beta, the other alpha r - mean -
    beta: the upper by entropy, the lower by length (there beta is still the upper's). A group of
    one keeps its reward. `waves` are the code's cosine with restarts.

    Source: CANON, arXiv 2509.23962
    Status: checked against authors' code
    """

    makes_advantages = True

    metric: Literal["entropy", "length"] = "entropy"
    """What halves are made by: the policy's mean entropy, or how many tokens it chose."""
    mu: float | None = Field(default=1.0, ge=0, le=1)
    """Share of the comparison between halves; None is 1 - the batch's mean reward."""
    waves: Waves | None = None
    """How 1 - mu moves over a run, whatever `mu` is; None holds it."""
    alpha: Weight = 1.0
    """Below 1 the half that is favoured gains."""
    beta: float = Field(default=0.0, ge=-1_000_000, le=1_000_000)
    """What the upper half is given, and the lower one loses, between halves."""
    max_length: Count = 8192
    """Tokens of the longest response: the unit of the loss's sum over a sample."""

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """The policy's entropies, if they make the halves."""
        return frozenset({OLD}) if self.metric == "entropy" else frozenset()

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its sample's advantage."""
        metric = step.rollouts.num_loss_tokens.double()
        if self.metric == "entropy":
            metric = step.by(Grouping.by_sample).mean(step[OLD].entropies).nan_to_num(0.0).cpu()
        return credit.with_advantages(step.of_samples(self._of_samples(step, metric)))

    def _of_samples(self, step: Step, metric: Tensor) -> Tensor:
        groups, rewards = Groups(step.rollouts.group_ids), step.rollouts.rewards.double()
        is_upper = groups.ranks(metric) >= groups.size // 2
        upper, lower = (_mean_of(half, groups, rewards) for half in (is_upper, ~is_upper))
        own, other = torch.where(is_upper, upper, lower), torch.where(is_upper, lower, upper)
        is_favoured = is_upper if self.metric == "entropy" else ~is_upper
        between = torch.where(
            is_favoured, rewards - self.alpha * other, self.alpha * rewards - other
        ) + torch.where(is_upper, self.beta, -self.beta)
        mu = 1 - rewards.mean() if self.mu is None else self.mu
        mu = mu if self.waves is None else 1 - self.waves.at(step.number)
        advantages = mu * between + (1 - mu) * (rewards - own)
        return without_rounding(advantages, rewards) / self.max_length


def _mean_of(half: Tensor, groups: Groups, rewards: Tensor) -> Tensor:
    """The mean reward of a half of each group; 0 in a group of one, and of none."""
    total, count = groups.sum(rewards.where(half, 0.0)), groups.sum(half.double())
    return (total / count.clamp(min=1)).masked_fill(groups.is_single, 0.0)
