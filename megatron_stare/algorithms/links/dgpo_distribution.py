"""DGPO (distribution-guided): credit goes to tokens where the policy has left the reference."""

from __future__ import annotations

import math

from pydantic import Field

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.system.values import PositiveWeight, Weight


class DgpoDistribution(Link[None]):
    """A T softmax(d (H / ln V)^kappa / tau) over a sample's T tokens, d the distance to reference.

    d is 1 - sum sqrt(p q) over the vocabulary, Hellinger's. Here it is estimated from the sampled
    token as (1 - sqrt(q / p))^2 / 2, unbiased but for the bound of 1: no logits are kept.

    Source: DGPO (distribution-guided), arXiv 2605.03327
    Status: derived
    """

    scope = "sample"
    needs = frozenset({OLD, REFERENCE})

    tau: PositiveWeight = 0.5
    """Temperature of the softmax: the smaller, the fewer tokens share the credit."""
    kappa: Weight = 1.0
    """Exponent of the entropy: 0 leaves it out."""
    vocab_size: int = Field(default=151_936, ge=2, le=1_000_000_000)
    """V of the model, whose logarithm is the largest entropy: the default is Qwen2.5's."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Spread each sample's advantage over its tokens."""
        policy, samples = step[OLD], step.by(Grouping.by_sample)
        distance = ((step[REFERENCE].logprobs - policy.logprobs) / 2).clamp(max=10).exp()
        distance = ((1 - distance).square() / 2).clamp(max=1).double()
        gate = (policy.entropies.double() / math.log(self.vocab_size)).clamp(0, 1) ** self.kappa
        scores = distance * gate / self.tau
        counted = credit.counted
        highest = samples.of_tokens(samples.max(scores, counted))
        shares = (scores - highest).clamp(max=0).exp()
        mean = samples.of_tokens(samples.mean(shares, counted))
        return credit.with_advantages(credit.advantages * shares / mean)
