"""Larger advantages where a sample is most surprising for its sign."""

from __future__ import annotations

import torch

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Multiple, Share


class A3po(Link[None]):
    """A * s on the least likely tokens of a sample with A > 0, the most likely ones of A < 0.

    Each sample has its share of them, rounded down, at least one. The sign stands for the verdict
    of the authors' code, which it is where rewards are 0 and 1; its rule for probabilities of
    exactly 0, which it skips, is left out. The paper moves both factors to 1 over a run, in a way
    that it does not publish.

    Source: A3PO, arXiv 2512.21625
    Status: checked against authors' code
    """

    scope = "sample"
    needs = frozenset({OLD})

    share: Share = 0.2
    """How many of a sample's tokens."""
    positive: Multiple
    """s of a sample with A > 0."""
    negative: Multiple
    """s of a sample with A < 0."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Multiply advantages."""
        samples, advantages = step.own_samples, credit.advantages
        for sign, factor in ((1, self.positive), (-1, self.negative)):
            tokens = credit.counted & (sign * credit.advantages > 0)
            key = -sign * step[OLD].logprobs
            chosen = samples.top_share(key, self.share, tokens, round_up=False)
            advantages = torch.where(chosen, factor * advantages, advantages)
        return credit.with_advantages(advantages)
