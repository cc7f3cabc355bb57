"""ARPO: what samples share is worth what they are worth together."""

from __future__ import annotations

import torch

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import CUTS


class Arpo(Link[None]):
    """A of a segment = mean of GRPO's A over the samples of the group that share its node.

    A sample's tokens after a cut are of that cut's node; those before its first cut are its own.
    This is the hard attribution; the soft one, which the code has, is GRPO.

    Source: ARPO, arXiv 2507.19849
    Status: paper
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({CUTS})

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its segment's advantage."""
        batch, nodes = step.rollouts, step[CUTS].nodes
        advantages = group_advantages(batch.rewards.double(), batch.group_ids)
        owners, places = batch.sample_ids, torch.arange(len(nodes))
        # The last cut at or before each token, and whether it is its sample's.
        cuts = torch.where(nodes >= 0, places, -1).cummax(0).values
        is_shared = (cuts >= 0) & (owners[cuts] == owners)
        at = (nodes >= 0).nonzero()[:, 0]
        keys = torch.stack([batch.group_ids[owners[at]], nodes[at]], dim=1)
        _, of_cut, counts = keys.unique(dim=0, return_inverse=True, return_counts=True)
        totals = torch.zeros(len(counts)).double().index_add_(0, of_cut, advantages[owners[at]])
        means = torch.zeros(len(nodes)).double()
        means[at] = (totals / counts)[of_cut]
        given = torch.where(is_shared, means[cuts], advantages[owners])
        return credit.with_advantages(given[step.index].to(step.mask.device))
