"""Learning from the tokens alone at which the policy hesitates."""

from __future__ import annotations

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Share


class HighEntropy(Link[None]):
    """Counts the share of the batch's tokens with the largest entropy, and no others.

    Denominators count these alone, as in the authors' code; the share is of the whole batch, theirs
    of a micro-batch.

    Source: Beyond the 80/20 Rule, arXiv 2506.01939
    Status: checked against authors' code
    """

    needs = frozenset({OLD})

    share: Share = 0.2
    """How many of the counted tokens are kept, rounded up."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave the others out."""
        entropies = step[OLD].entropies
        kept = step.stats.top_share(entropies, self.share, where=credit.counted)
        return credit._replace(counted=kept)
