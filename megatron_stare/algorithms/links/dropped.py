"""What links have in common that drop whole samples."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD, ROLLOUT


class DropsSamples(Link[None]):
    """weight * 0 on what `dropped` says; it stays in the denominator. Logs its only metric."""

    scope = "sample"
    needs = frozenset({OLD, ROLLOUT})

    def dropped(self, credit: Credit, step: Step) -> Tensor:
        """The tokens of samples that are dropped, bool `[r]`."""
        raise NotImplementedError

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Drop samples."""
        return credit.scaled(0.0, self.dropped(credit, step))

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """How many tokens are dropped."""
        (name,) = self.metrics
        return {name: float(step.stats.mean(self.dropped(credit, step), credit.counted))}
