"""Entropy-shaped advantages."""

import torch

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Multiple, PositiveWeight


class EntroAdv(Link[None]):
    """A + min(alpha H, |A| / kappa), H the entropy before the step, in nats.

    It adds to negative advantages, too: they are punished less where entropy is high. Signs stay,
    and 0 stays 0.

    Source: Reasoning with Exploration, arXiv 2506.14758
    Status: paper
    """

    scope = "sample"
    needs = frozenset({OLD})

    alpha: PositiveWeight = 0.4
    """What a nat of entropy adds; the paper takes 0.1 with PPO."""
    kappa: Multiple = 2.0
    """At most 1 / kappa of the advantage is added."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Shape the advantage of every token."""
        bound = credit.advantages.abs() / self.kappa
        added = torch.minimum(self.alpha * step[OLD].entropies, bound)
        return credit.with_advantages(credit.advantages + added)
