"""ACE: errors that the policy has become confident of are punished more."""

from typing import Literal

import torch
from torch.nn.functional import softplus

from megatron_stare.algorithms.corrections import LEVELS
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.system.values import PositiveWeight


class Ace(Link[None]):
    """A (1 + alpha softplus(c)) where A < 0, c = log(policy / reference) of the sample, in nats.

    It stands behind a baseline. That wrong samples are weighed by softplus(c) is known of the
    paper; the form of the factor, alpha and whether c is a sum or a mean over tokens are not.

    Source: ACE, arXiv 2602.21420
    Status: derived
    """

    scope = "sample"
    needs = frozenset({OLD, REFERENCE})

    alpha: PositiveWeight
    """How much more confident errors count: not known of the paper."""
    level: Literal["sequence", "geometric"]
    """Whether c is the sum over the sample's tokens, or their mean: not known of the paper."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Scale negative advantages."""
        shift = (step[OLD].logprobs - step[REFERENCE].logprobs).masked_fill(~step.mask, 0.0)
        shift = LEVELS[self.level](shift, step.sample_ids, step.mask)
        factor = torch.where(credit.advantages < 0, 1 + self.alpha * softplus(shift), 1.0)
        return credit.with_advantages(credit.advantages * factor)
