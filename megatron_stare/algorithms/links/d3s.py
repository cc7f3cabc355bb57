"""Learning from the tokens alone where advantage and entropy are large."""

from __future__ import annotations

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.schedules import share_between
from megatron_stare.system.values import Share


class D3s(Link[None]):
    """Counts the share of the batch's tokens with the largest |A| H, and no others.

    The share goes along a line from `first` to `last` over the run; the paper names neither, but
    that it starts below 0.2. Rounded up, which the paper leaves open. Its choice of samples is not
    here: this is its choice of tokens.

    Source: D3S, arXiv 2509.22115
    Status: paper
    """

    needs = frozenset({OLD})

    first: Share
    """The share at the start of a run."""
    last: Share
    """The share at its end."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave the others out."""
        share = share_between(self.first, self.last, step.progress)
        key = credit.advantages.abs() * step[OLD].entropies
        return credit._replace(counted=step.stats.top_share(key, share, where=credit.counted))
