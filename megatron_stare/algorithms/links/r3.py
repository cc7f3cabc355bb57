"""R3: what is learned from groups with past samples in them, and from those all wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Metric, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import CountOrZero, PositiveWeight, Share, Weight


class R3(Link[None]):
    """A = (R - mean) / (alpha std + eps), R = r + max(0, 1 - l / bonus_length) where right.

    Truncated samples of a group all wrong are ranked by how many of each other they dominate, with
    a larger peak of entropy (the mean of its top `share`) and a smaller mean of all tokens: the
    k-th of N, from 0, is worth R = most (1 - k / (N - 1)). Of equals, that of the smaller mean is
    first, where the paper is silent; one alone is worth 0. Past samples join groups by the filter
    `replay`, past errors prompts by the curriculum `reflection`. None of the settings without a
    default is public; stds are unbiased.

    Source: R3, arXiv 2601.19620
    Status: paper
    """

    makes_advantages = True
    needs = frozenset({OLD})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "reward/ranked": Metric("count", "Truncated samples that are worth what entropy says."),
    }

    alpha: PositiveWeight
    """Factor of the std."""
    eps: PositiveWeight
    """What is added to it: lambda."""
    share: Share
    """Of a sample's tokens, rounded down and one at least: the peak."""
    most: Weight
    """Reward of the first in rank."""
    bonus_length: CountOrZero = 32_768
    """Tokens up to which a right sample gains by being short; 0 adds nothing."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its sample's advantage."""
        batch, groups = step.rollouts, Groups(step.rollouts.group_ids)
        rewards, ranked = batch.rewards.double(), self._ranked(step)
        if self.bonus_length:
            spared = (1 - batch.num_loss_tokens / self.bonus_length).clamp(min=0)
            rewards = rewards + spared * batch.is_right
        rewards = torch.where(ranked.isnan(), rewards, ranked)
        advantages = groups.centred(rewards) / (self.alpha * groups.std(rewards) + self.eps)
        return credit.with_advantages(step.of_samples(advantages))

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How many samples were ranked."""
        return {"reward/ranked": float((~self._ranked(step).isnan()).sum())}

    def _ranked(self, step: Step) -> Tensor:
        """Rewards of the samples that are ranked, float64 `[B]`; NaN for the others."""
        return step.once(self, lambda: self._ranks(step))

    def _ranks(self, step: Step) -> Tensor:
        batch, entropies, samples = step.rollouts, step[OLD].entropies, step.by(Grouping.by_sample)
        means = samples.mean(entropies).cpu()
        peaks = samples.mean(entropies, samples.top_share(entropies, self.share, round_up=False))
        all_wrong = Groups(batch.group_ids).sum(batch.is_right.double()) == 0
        is_ranked = batch.is_truncated & all_wrong & (batch.num_loss_tokens > 0)
        rewards = torch.full_like(means, torch.nan)
        for group in batch.group_ids[is_ranked].unique():
            members = (is_ranked & (batch.group_ids == group)).nonzero()[:, 0]
            order = members[_order(peaks.cpu()[members], means[members])]
            places = torch.arange(len(members), dtype=rewards.dtype)
            rewards[order] = self.most * (1 - places / max(len(members) - 1, 1))
            if len(members) == 1:
                rewards[order] = 0.0
        return rewards


def _order(peaks: Tensor, means: Tensor) -> Tensor:
    """Places of samples `[N]`, those first that dominate most of the others."""
    dominates = (peaks[:, None] > peaks) & (means[:, None] < means)
    order = means.argsort(stable=True)
    return order[dominates.sum(1)[order].argsort(descending=True, stable=True)]
