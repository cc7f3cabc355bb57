"""InfoPO: what turns have found out counts where outcomes say nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import GRPO_EPS, Groups, group_advantages
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import TURN_REWARDS, TURNS
from megatron_stare.algorithms.turns import standardised
from megatron_stare.system.values import PositiveWeight, Weight


class InfoPo(Link[None]):
    """A = O + beta sigmoid(-std / temperature) s I, O GRPO's of outcomes, I of information gains.

    A turn's gain is its own reward: how much likelier, in nats a token, the next turn has become by
    what it was told. Each token of a turn has an equal part of it; I is their z, mean and unbiased
    std of those in the group that are not 0, which stay 0. s = min(1, max(std O, 1) / std I) over
    the batch's tokens, and std is of the group's outcomes: where these differ, gains hardly count.
    The code also pays outcomes by turn, where an environment does.

    Source: InfoPO, arXiv 2603.00656
    Status: checked against authors' code
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({TURNS, TURN_REWARDS})

    beta: Weight = 0.5
    """How much gains count; half of it where the outcomes of a group are all the same."""
    temperature: PositiveWeight = 0.05
    """Of the gate: the std of outcomes, in rewards, over which gains fade."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets what it has of both."""
        batch, turns = step.rollouts, step[TURNS]
        rewards, mask, samples = batch.rewards.double(), batch.loss_mask, batch.sample_ids
        outcomes = group_advantages(rewards, batch.group_ids)[samples]
        gain = turns.of_tokens(turns.own_rewards / turns.num_counted.clamp(min=1))
        found, gains = mask & (gain != 0), torch.zeros_like(gain)
        gains[found] = standardised(Groups(batch.group_ids[samples][found]), gain[found])
        groups = Groups(batch.group_ids)
        spread = groups.std(rewards).masked_fill(groups.is_single, 1.0)
        most = _std(outcomes[mask]).clamp(min=1.0)
        scale = (most / (_std(gains[mask]) + GRPO_EPS)).clamp(max=1.0)
        gate = (-spread / self.temperature).sigmoid()[samples]
        advantages = outcomes + self.beta * gate * scale * gains
        return credit.with_advantages(advantages[step.index].to(step.mask.device))


def _std(values: Tensor) -> Tensor:
    """Unbiased, float64; 0 of fewer than two."""
    return ((values - values.mean()).square().sum() / max(1, len(values) - 1)).sqrt()
