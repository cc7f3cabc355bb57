"""The optimizer updates of a step: how a batch is gone through."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_stare.algorithms.hooks import Credit, Rescore, Step, Update, Updates
from megatron_stare.system.values import Count


class Epochs(Updates):
    """The batch's `train.updates_per_step` parts in turn, whole groups each; all that count times.

    Credit and old log-probs stay those of the step.

    Source: PPO, arXiv 1707.06347
    Status: checked against authors' code
    """

    count: Count = 1
    """How many times; with two or more, the later ones are off-policy, and ratios clip."""

    @property
    def passes(self) -> int:
        """As often as it says."""
        return self.count

    def updates(self, step: Step, credit: Credit, rescore: Rescore) -> Iterator[Update]:
        """One of each part, in the batch's order."""
        for _ in range(self.count):
            for samples in step.updates:
                yield Update(samples, credit)
