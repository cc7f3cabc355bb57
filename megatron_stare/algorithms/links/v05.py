"""V_0.5: a prompt's past says what to expect of it, unless its samples say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, model_validator

from megatron_stare.algorithms.advantages import Groups, without_rounding
from megatron_stare.algorithms.drawing import Budget
from megatron_stare.algorithms.hooks import Credit, Drawing, Link, Metric, Step
from megatron_stare.algorithms.prompt_history import History, mean_rewards, prompt_key, prompts_of
from megatron_stare.system.values import CountOrZero, Share, Weight
from megatron_stare.types import Group


class V05(Link[History]):
    """A = r - (w mean + (1 - w) V), w = D / (D + b), D = max(0, (mean - V)^2 - b), b = s^2 / G.

    V is the prior value of the prompt, s half the range of rewards. In the place of the paper's
    V_0, a pretrained value model, V is the prompt's mean reward in earlier steps, calibrated by
    the line from such means to the rewards that followed, of all prompts. w = 1 for a prompt not
    seen before. A division by a std, which the paper leaves open, is not here.

    With `first`, a prompt gets so many samples at once, and one after another while that lowers
    D b / (D + b) by more than `cost` s^2, up to rollout.samples_per_prompt; b itself for a prompt
    not seen before. The paper's 4 and 16, and its cost 1 / 16^2; how exactly it stops is not known
    of it.

    Source: V_0.5, arXiv 2603.10848
    Status: paper
    """

    makes_advantages = True
    metrics: ClassVar[Mapping[str, Metric]] = {
        "reward/prior_share": Metric("share", "Prompts of the step with a past to expect from."),
        "reward/prior_error": Metric("1", "Mean distance of what was expected from what came."),
    }

    low: float = Field(default=0.0, ge=-1_000_000, le=1_000_000)
    """The least reward: 0, or the paper's -1."""
    high: float = Field(default=1.0, ge=-1_000_000, le=1_000_000)
    """The largest."""
    rate: Share = 0.5
    """How much of a prompt's mean a later step replaces."""
    memory: Share = 0.99
    """How much of the fit a step keeps."""
    first: CountOrZero = 0
    """Samples that a prompt has at first; 0 asks for all of them at once."""
    cost: Weight = 1 / 256
    """What a sample costs, in squares of half the range of rewards."""

    @model_validator(mode="after")
    def _is_a_range(self) -> V05:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} with high={self.high}: expected a larger high")
        return self

    def start(self) -> History:
        """Nothing is known."""
        return History.empty()

    def advance(self, state: History, step: Step) -> History:
        """Say what is expected, and remember what came."""
        rates = {"rate": self.rate, "memory": self.memory}
        return state.after(mean_rewards(step), self.low, self.high, **rates)

    def apply(self, credit: Credit, step: Step, state: History) -> Credit:
        """Every token gets its sample's advantage."""
        groups, rewards = Groups(step.rollouts.group_ids), step.rollouts.rewards.double()
        priors = [state.priors.get(prompt, torch.nan) for prompt in prompts_of(step)]
        prior, mean = torch.tensor(priors, dtype=torch.float64), groups.mean(rewards)
        noise = self._half**2 / groups.size
        differs = ((mean - prior).square() - noise).clamp(min=0)
        shrunk = prior + differs / (differs + noise) * (mean - prior)
        advantages = rewards - torch.where(prior.isnan(), mean, shrunk)
        return credit.with_advantages(step.of_samples(without_rounding(advantages, rewards)))

    def drawing(self, state: History) -> Drawing:
        """As many samples of a prompt as pay."""
        if self.first == 0:
            return Drawing()
        return Drawing(budget=Budget(self.first, lambda group: self._pays(group, state)))

    def _pays(self, group: Group, state: History) -> bool:
        """Whether one more sample lowers the risk by more than it costs; both in units of s^2."""
        rewards = [reward.value for reward in group.judged.rewards]
        prior = state.expected(prompt_key(group.prompt.token_ids), self.low, self.high)
        if not rewards:
            return True
        k, apart = len(rewards), torch.inf
        if prior is not None:
            apart = max(0.0, ((sum(rewards) / k - prior) / self._half) ** 2 - 1 / k)
        risks = [0.0 if apart == 0 else 1 / (1 / apart + n) for n in (k, k + 1)]
        return risks[0] - risks[1] > self.cost

    @property
    def _half(self) -> float:
        return (self.high - self.low) / 2

    def report(self, credit: Credit, step: Step, state: History) -> Mapping[str, float]:
        """How many prompts there was a prior of, and how wrong it was."""
        found = mean_rewards(step)
        errors = [abs(prior - found[prompt]) for prompt, prior in state.priors.items()]
        error = sum(errors) / len(errors) if errors else float("nan")
        return {"reward/prior_share": len(errors) / len(found), "reward/prior_error": error}
