"""GTPO and GRPO-S: rewards shaped by entropy, right and wrong samples normalised apart."""

from collections.abc import Callable

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import Groups, without_rounding
from megatron_stare.algorithms.batch_stats import BatchStats, Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import PositiveWeight

EPS = 1e-8
Sum = Callable[[Tensor], Tensor]
"""Of values `[n]` over those that a value belongs to, said of each, `[n]`."""


class _Shaped(Link[None]):
    needs = frozenset({OLD})

    makes_advantages = True

    alpha1: PositiveWeight = 1.0
    """What the reward counts for."""
    alpha2: PositiveWeight = 0.1
    """What entropy counts for."""

    def advantages(
        self, entropies: Tensor, rewards: Tensor, is_right: Tensor, peers: Sum, group: Sum
    ) -> Tensor:
        """Of values `[n]`, each shaped against its peers and normalised in its group."""

        def apart(values: Tensor, total: Sum) -> Tensor:
            return torch.where(is_right, total(values * is_right), total(values * ~is_right))

        ones = torch.ones_like(entropies)
        part = torch.where(is_right, entropies, 1 / (entropies + EPS))
        bonus = part / (apart(part, peers) + EPS) * apart(ones, peers)
        worth = torch.where(is_right, rewards, -1.0)
        shaped = self.alpha1 * worth + self.alpha2 * torch.where(is_right, bonus, -bonus)
        count = apart(ones, group)
        centred = without_rounding(shaped - apart(shaped, group) / count, shaped)
        return centred / (apart(centred.square(), group) / count + EPS).sqrt()


class Gtpo(_Shaped):
    """A = (x - mean) / sqrt(var + 1e-8), x = a1 r + a2 n H / sum H, and -a1 - a2 n / H / sum 1 / H.

    x is of the tokens of right and of wrong samples; sums and n are over those of the same kind in
    the group that reach the token's place, mean and var over all of that kind in the group. H is
    the entropy before the step, in nats. The reward itself drops out: with equal entropies every
    advantage is 0. A sample is right where its verdict is above 0.

    Source: GTPO and GRPO-S, arXiv 2508.04349
    Status: paper
    """

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its own advantage."""

        def over(stats: BatchStats) -> Sum:
            return lambda values: stats.of_tokens(stats.sum(values))

        peers, group = step.by(Grouping.by_group_and_position), step.by(Grouping.by_group)
        rewards = step.of_samples(step.rollouts.rewards.double())
        is_right = step.of_samples(step.rollouts.is_right)
        values = (step[OLD].entropies.double(), rewards, is_right)
        return credit.with_advantages(self.advantages(*values, over(peers), over(group)))


class GrpoS(_Shaped):
    """GTPO's A of samples: H is the mean entropy of a sample, n and all sums are the group's.

    Here it is derived from GTPO; the paper's ratio of samples is the policy term's business.

    Source: GTPO and GRPO-S, arXiv 2508.04349
    Status: derived
    """

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its sample's advantage."""
        batch = step.rollouts
        groups, exists = Groups(batch.group_ids), batch.num_loss_tokens > 0
        entropies = step.by(Grouping.by_sample).mean(step[OLD].entropies).nan_to_num(0.0).cpu()

        def total(values: Tensor) -> Tensor:
            return groups.sum(values.where(exists, 0.0))

        values = (entropies, batch.rewards.double(), batch.is_right)
        advantages = self.advantages(*values, total, total)
        return credit.with_advantages(step.of_samples(advantages))
