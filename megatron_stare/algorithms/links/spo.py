"""SPO: the tokens of a segment at which the policy chose."""

from __future__ import annotations

import math

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share


class Spo(Link[None]):
    """Counts the tokens of probability < `probability`, and whitens their advantages.

    It stands behind `segment_values`; mean and unbiased std are the batch's. Advantages are 0
    elsewhere.

    Source: SPO (chain), arXiv 2505.23564
    Status: paper
    """

    needs = frozenset({OLD})

    probability: Share = 0.9
    """From which a token was no choice of the policy's."""
    whitens: bool = True
    """Whether advantages are whitened over what is counted."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave the others out."""
        is_choice = step[OLD].logprobs < math.log(self.probability)
        credit = credit._replace(counted=credit.counted & is_choice)
        advantages = credit.advantages
        if self.whitens:
            advantages = step.stats.whiten(advantages, credit.counted)
        return credit.with_advantages(advantages)
