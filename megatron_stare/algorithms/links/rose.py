"""ROSE: what a branch point is worth, from the samples that have passed it."""

from __future__ import annotations

import torch

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.links.segment_values import of_segments
from megatron_stare.algorithms.needs import CUTS


class Rose(Link[None]):
    """A = V(next cut) - V(cut) of each segment, V(node) the mean reward of its group's samples.

    A node's samples are those that have a cut of that node; the last segment gets reward - V(cut).
    The code takes the position of a cut for its node, so that two nodes at one place are merged:
    who gives positions as nodes has its numbers. Its length penalty, 0 by default, is not here.

    Source: ROSE, arXiv 2601.05053
    Status: checked against authors' code
    """

    makes_advantages = True
    scope = "sample"
    needs = frozenset({CUTS})

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its segment's advantage."""
        batch, nodes = step.rollouts, step[CUTS].nodes
        places = (nodes >= 0).nonzero()[:, 0]
        owners = batch.sample_ids[places]
        keys = torch.stack([batch.group_ids[owners], nodes[places]], dim=1)
        _, of_cut, counts = keys.unique(dim=0, return_inverse=True, return_counts=True)
        rewards = batch.rewards.double()
        totals = rewards.new_zeros(len(counts)).index_add_(0, of_cut, rewards[owners])
        values = rewards.new_full((len(nodes),), torch.nan)
        values[places] = (totals / counts)[of_cut]
        gains = of_segments(values, batch, torch.diff)
        return credit.with_advantages(gains[step.index].to(step.mask.device))
