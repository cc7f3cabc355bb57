"""The same weight against a mean over steps: a link that remembers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import Multiple, Share


@dataclass(frozen=True)
class Seen:
    """The mean entropy of the steps so far, in nats; None before the first."""

    entropy: float | None = None


class RunningHesitation(Link[Seen]):
    """weight * min(H / h, high), h <- h + rate (mean H - h), from the first step's mean on.

    Source: an example
    Status: derived
    """

    needs = frozenset({OLD})

    high: Multiple = 2.0
    """Largest factor."""
    rate: Share = 0.1
    """How much of h a step replaces."""

    def start(self) -> Seen:
        """Nothing is seen."""
        return Seen()

    def advance(self, state: Seen, step: Step) -> Seen:
        """Move towards this step's mean; one that is not finite moves nothing."""
        mean = float(step.stats.mean(step[OLD].entropies))
        before = mean if state.entropy is None else state.entropy
        moved = before + self.rate * (mean - before)
        return Seen(moved) if math.isfinite(moved) else state

    def apply(self, credit: Credit, step: Step, state: Seen) -> Credit:
        """Multiply the weight of every token."""
        mean = max(state.entropy or 0.0, 1e-6)
        return credit.scaled((step[OLD].entropies / mean).clamp(max=self.high))

    def report(self, credit: Credit, step: Step, state: Seen) -> Mapping[str, float]:
        """Where h stands."""
        return {"own/running_entropy": math.nan if state.entropy is None else state.entropy}
