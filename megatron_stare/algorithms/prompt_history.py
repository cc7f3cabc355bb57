"""What rewards a prompt has had, step after step, and what that says of the next ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from megatron_stare.algorithms.hooks import Step
from megatron_stare.types import RolloutBatch


@dataclass(frozen=True, slots=True)
class History:
    """What is known of prompts, by `prompt_key`: a state of plain values.

    means   mean reward of those that were seen, the latest weighing most
    fit     of pairs (x that mean, y the reward that followed): count, sums of x, y, x x and x y
    priors  what was expected of this step's prompts, of those seen before
    """

    means: dict[str, float]
    fit: list[float]
    priors: dict[str, float]

    @classmethod
    def empty(cls) -> History:
        """Nothing is known."""
        return cls({}, [0.0] * 5, {})

    def expected(self, prompt: str, low: float, high: float) -> float | None:
        """Its mean reward on the line of least squares from such means to those that followed.

        The ends of the range stand for themselves in it. None of a prompt that was not seen.
        """
        if prompt not in self.means:
            return None
        ends = (2, *[low + high] * 2, *[low**2 + high**2] * 2)
        n, x, y, xx, xy = (a + b for a, b in zip(self.fit, ends, strict=True))
        slope = (xy - x * y / n) / (xx - x * x / n)
        return min(max(y / n + slope * (self.means[prompt] - x / n), low), high)

    def after(
        self,
        found: Mapping[str, float],
        low: float,
        high: float,
        *,
        rate: float,
        memory: float,
    ) -> History:
        """With a step's mean reward of each of its prompts.

        Args:
            rate: how much of a prompt's mean it replaces.
            memory: how much of the fit is kept.
        """
        expected = {prompt: self.expected(prompt, low, high) for prompt in found}
        fit = [memory * total for total in self.fit]
        moved = dict(found)
        for prompt in found.keys() & self.means.keys():
            x, y = self.means[prompt], found[prompt]
            fit = [a + b for a, b in zip(fit, (1.0, x, y, x * x, x * y), strict=True)]
            moved[prompt] = x + rate * (y - x)
        priors = {prompt: prior for prompt, prior in expected.items() if prior is not None}
        return History({**self.means, **moved}, fit, priors)


def prompt_key(token_ids: Sequence[int] | torch.Tensor) -> str:
    """A hash of a prompt's tokens, and so the same in every run and layout."""
    tokens = torch.as_tensor(token_ids, dtype=torch.int64)
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16]


def prompts_of(step: Step) -> list[str]:
    """The key of each sample's prompt."""
    return step.once(prompts_of, lambda: _keys(step.rollouts))


def mean_rewards(step: Step) -> dict[str, float]:
    """Of the samples of each prompt."""
    rewards: dict[str, list[float]] = {}
    for prompt, reward in zip(prompts_of(step), step.rollouts.rewards.tolist(), strict=True):
        rewards.setdefault(prompt, []).append(reward)
    return {prompt: sum(found) / len(found) for prompt, found in rewards.items()}


def _keys(batch: RolloutBatch) -> list[str]:
    starts = (batch.lengths.cumsum(0) - batch.lengths).tolist()
    spans = zip(starts, batch.prompt_lengths.tolist(), strict=True)
    return [prompt_key(batch.token_ids[start : start + length]) for start, length in spans]
