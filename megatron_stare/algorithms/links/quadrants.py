"""The quadrants of a batch, observed under any method."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.links.stare import most_surprising
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.quadrants import quadrant_metrics


class Quadrants(Link[None]):
    """Changes nothing: reports how many tokens of each sign are surprising, and how random.

    The sign is the advantage's. It looks when the step is done, and costs no pass.

    Source: STARE, arXiv 2606.19236, section 3
    Status: paper
    """

    top_share: float = Field(default=0.10, gt=0, le=1)
    """The share of the tokens of each advantage sign that counts as surprising."""

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """Share and entropy of each quadrant."""
        selection = most_surprising(step[OLD].logprobs, credit, step, self.top_share)
        return quadrant_metrics(step[OLD].entropies, selection, step.stats)
