"""Learning from the samples alone whose advantages vary most."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.schedules import share_between
from megatron_stare.ops.selection import share_of
from megatron_stare.system.values import Share


class D3sSamples(Link[None]):
    """Counts the samples of each group whose A vary most, of these the batch's, and no others.

    As many of the largest A and of the smallest as make the variance largest; of equal A, the
    earlier samples are the larger. Shares go along a line over the run and are rounded up. A is not
    computed anew. Groups whose A are all equal are left out. `d3s` chooses tokens, behind this.

    Source: D3S, arXiv 2509.22115
    Status: paper
    """

    group_first: Share
    """The share of a group's samples at the start of a run: not known of the paper."""
    group_last: Share
    """The same at its end."""
    batch_first: Share
    """The share that is kept, over the batch, of the samples so chosen, at the start of a run."""
    batch_last: Share
    """The same at its end."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Leave the others out."""
        advantages = step.by(Grouping.by_sample).mean(credit.advantages, credit.counted).cpu()
        kept, ids = torch.zeros(len(advantages), dtype=torch.bool), step.rollouts.group_ids
        share = share_between(self.group_first, self.group_last, step.progress)
        for group in ids.unique():
            members = ((ids == group) & ~advantages.isnan()).nonzero()[:, 0]
            if len(advantages[members].unique()) > 1:
                kept[members[widest(advantages[members], share)]] = True
        left = kept.nonzero()[:, 0]
        share = share_between(self.batch_first, self.batch_last, step.progress)
        kept = torch.zeros_like(kept)
        kept[left[widest(advantages[left], share)]] = True
        return credit._replace(counted=credit.counted & (step.of_samples(kept) > 0))


def widest(values: Tensor, share: float) -> Tensor:
    """Places of that share of values `[n]`, rounded up, whose variance is largest."""
    k, order = share_of(share, len(values)), values.argsort(descending=True, stable=True)
    choices = [torch.cat([order[:high], order[len(order) - k + high :]]) for high in range(k + 1)]
    return max(choices, key=lambda places: float(values[places].var(correction=0)))
