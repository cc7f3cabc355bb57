"""REINFORCE++: advantages whitened over the tokens of the whole batch."""

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.system.values import Share


class ReinforcePlusPlus(Link[None]):
    """A = (R - mean R) / sqrt(var R + 1e-8) over the batch's tokens, R_t = gamma^(T - t) r.

    T - t are the tokens that the policy still chooses after t. verl's code sets the return to 0 at
    tokens that it did not choose: there, what comes before a tool's output learns nothing. A KL
    penalty is the term `kl`, no part of r. Rewards of groups have no baseline of their own.

    Source: REINFORCE++, arXiv 2501.03262
    Status: checked against authors' code
    """

    makes_advantages = True

    gamma: Share = 1.0
    """Discount of the reward, per token."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """The return of every token, whitened."""
        batch = step.rollouts
        ends = batch.num_loss_tokens.cumsum(0)[batch.sample_ids]
        later = (ends - batch.loss_mask.cumsum(0))[step.index].to(step.mask.device)
        returns = step.of_samples(batch.rewards.double()) * self.gamma ** later.double()
        return credit.with_advantages(step.stats.whiten(returns))


class ReinforcePlusPlusBaseline(Link[None]):
    """A = (x - mean x) / sqrt(var x + 1e-8) over the batch's tokens, x = r - mean of its group.

    A group of one keeps its reward before it is whitened.

    Source: REINFORCE++, arXiv 2501.03262
    Status: checked against authors' code
    """

    makes_advantages = True

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """The deviation of every token's sample, whitened."""
        batch = step.rollouts
        deviations = group_advantages(batch.rewards.double(), batch.group_ids, "dr_grpo")
        return credit.with_advantages(step.stats.whiten(step.of_samples(deviations)))
