"""A token weight of one's own: where the policy hesitates, a token counts for more."""

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Multiple


class Hesitation(Link[None]):
    """weight * min(H / mean H, high), H the entropy before the step, its mean the batch's.

    Source: an example
    Status: derived
    """

    needs = frozenset({OLD})

    high: Multiple = 2.0
    """Largest factor."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Multiply the weight of every token."""
        entropies = step[OLD].entropies
        mean = step.stats.mean(entropies).clamp(min=1e-6)
        return credit.scaled((entropies / mean).clamp(max=self.high))
