"""V_0.5: a prompt's past says what to expect of it, unless its samples say otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, model_validator

from megatron_stare.algorithms.advantages import Groups, without_rounding
from megatron_stare.algorithms.hooks import Credit, Link, Metric, Step
from megatron_stare.system.values import Share
from megatron_stare.types import RolloutBatch


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of prompts, by a hash of their tokens.

    means   mean reward of those that were seen, the latest weighing most
    fit     of pairs (x that mean, y the reward that followed): count, sums of x, y, x x and x y
    priors  what was expected of this step's prompts, of those seen before
    """

    means: dict[str, float]
    fit: list[float]
    priors: dict[str, float]


class V05(Link[Past]):
    """A = r - (w mean + (1 - w) V), w = D / (D + b), D = max(0, (mean - V)^2 - b), b = s^2 / G.

    V is the prior value of the prompt, s half the range of rewards. In the place of the paper's
    V_0, a pretrained value model, V is the prompt's mean reward in earlier steps, calibrated by
    the line from such means to the rewards that followed, of all prompts. w = 1 for a prompt not
    seen before. The paper's budget of samples is not here, nor a division by a std, which it leaves
    open.

    Source: V_0.5, arXiv 2603.10848
    Status: paper
    """

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

    @model_validator(mode="after")
    def _is_a_range(self) -> V05:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} with high={self.high}: expected a larger high")
        return self

    def start(self) -> Past:
        """Nothing is known."""
        return Past({}, [0.0] * 5, {})

    def advance(self, state: Past, step: Step) -> Past:
        """Say what is expected, and remember what came."""
        found = _mean_rewards(step)
        seen = {prompt: state.means[prompt] for prompt in found if prompt in state.means}
        priors = {prompt: self._calibrated(mean, state.fit) for prompt, mean in seen.items()}
        fit = [self.memory * total for total in state.fit]
        for prompt, x in seen.items():
            y = found[prompt]
            fit = [a + b for a, b in zip(fit, (1.0, x, y, x * x, x * y), strict=True)]
        moved = {p: x + self.rate * (found[p] - x) for p, x in seen.items()}
        return Past({**state.means, **found, **moved}, fit, priors)

    def _calibrated(self, mean: float, fit: list[float]) -> float:
        """On the line of least squares, the ends of the range standing for themselves in it."""
        ends = (2, *[self.low + self.high] * 2, *[self.low**2 + self.high**2] * 2)
        n, x, y, xx, xy = (a + b for a, b in zip(fit, ends, strict=True))
        slope = (xy - x * y / n) / (xx - x * x / n)
        return min(max(y / n + slope * (mean - x / n), self.low), self.high)

    def apply(self, credit: Credit, step: Step, state: Past) -> Credit:
        """Every token gets its sample's advantage."""
        groups, rewards = Groups(step.rollouts.group_ids), step.rollouts.rewards.double()
        priors = [state.priors.get(prompt, torch.nan) for prompt in _prompts_of(step)]
        prior, mean = torch.tensor(priors, dtype=torch.float64), groups.mean(rewards)
        noise = ((self.high - self.low) / 2) ** 2 / groups.size
        differs = ((mean - prior).square() - noise).clamp(min=0)
        shrunk = prior + differs / (differs + noise) * (mean - prior)
        advantages = rewards - torch.where(prior.isnan(), mean, shrunk)
        return credit.with_advantages(step.of_samples(without_rounding(advantages, rewards)))

    def report(self, credit: Credit, step: Step, state: Past) -> Mapping[str, float]:
        """How many prompts there was a prior of, and how wrong it was."""
        found = _mean_rewards(step)
        errors = [abs(prior - found[prompt]) for prompt, prior in state.priors.items()]
        error = sum(errors) / len(errors) if errors else float("nan")
        return {"reward/prior_share": len(errors) / len(found), "reward/prior_error": error}


def prompts_of(batch: RolloutBatch) -> list[str]:
    """A hash of each sample's prompt: of its tokens, and so the same in every run and layout."""
    starts = (batch.lengths.cumsum(0) - batch.lengths).tolist()
    spans = zip(starts, batch.prompt_lengths.tolist(), strict=True)
    parts = (batch.token_ids[start : start + n].numpy().tobytes() for start, n in spans)
    return [hashlib.sha256(part).hexdigest()[:16] for part in parts]


def _prompts_of(step: Step) -> list[str]:
    return step.once(prompts_of, lambda: prompts_of(step.rollouts))


def _mean_rewards(step: Step) -> dict[str, float]:
    rewards: dict[str, list[float]] = {}
    for prompt, reward in zip(_prompts_of(step), step.rollouts.rewards.tolist(), strict=True):
        rewards.setdefault(prompt, []).append(reward)
    return {prompt: sum(found) / len(found) for prompt, found in rewards.items()}
