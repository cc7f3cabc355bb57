"""Unlikeliness reward: right answers that the policy finds unlikely are worth more."""

from megatron_stare.algorithms.advantages import Groups, group_advantages
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share


class Unlikeliness(Link[None]):
    """GRPO's A of r (1 - beta k / G), k samples of the group being less likely by mean log-prob.

    Wrong samples keep reward 0; a group that is all right learns, too. A group of one keeps its
    reward.

    Source: Rewarding the Unlikely, arXiv 2506.02355
    Status: checked against authors' code
    """

    makes_advantages = True
    needs = frozenset({OLD})

    beta: Share = 0.25
    """What the most likely sample loses, almost, of its reward."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its sample's advantage."""
        batch, groups = step.rollouts, Groups(step.rollouts.group_ids)
        likely = step.by(Grouping.by_sample).mean(step[OLD].logprobs).cpu()
        ranks = groups.ranks(likely.nan_to_num(0.0))  # What has no token is certain.
        shaped = batch.rewards.double() * (1 - self.beta * ranks / groups.size)
        return credit.with_advantages(step.of_samples(group_advantages(shaped, batch.group_ids)))
