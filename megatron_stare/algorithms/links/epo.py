"""EPO: what entropy has been, for a bonus that counts for less where it leaves its history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Mark, Step
from megatron_stare.algorithms.needs import OLD

HISTORY = Mark("entropy_history")
"""The mean entropy of the steps before at the same turn, nats; 0 where there was none."""


@dataclass(frozen=True)
class Seen:
    """Of each number of a turn, from 0: mean entropies of steps, their sum and number.

    totals, counts  of the steps that are over
    before          their mean before this step; 0 where there was none
    """

    totals: Sequence[float] = ()
    counts: Sequence[int] = ()
    before: Sequence[float] = ()


class Epo(Link[Seen]):
    """Marks the mean of the mean entropies of all steps before, in nats, turn by turn.

    The first turns of samples have a history of their own, and so have the second ones. The authors
    act once an agent has played half of its turns: here always.

    Source: EPO, arXiv 2509.22576
    Status: checked against authors' code
    """

    needs = frozenset({OLD})
    marks = frozenset({HISTORY})

    def start(self) -> Seen:
        """Nothing is seen."""
        return Seen()

    def advance(self, state: Seen, step: Step) -> Seen:
        """Remember this step's means for the next; one that is not finite is forgotten."""
        means = step.by(Grouping.by_turn_number).mean(step[OLD].entropies).tolist()
        numbers = step.rollouts.turn_numbers.unique().tolist()
        size = max(len(state.totals), *(number + 1 for number in numbers))
        totals = [*state.totals, *[0.0] * (size - len(state.totals))]
        counts = [*state.counts, *[0] * (size - len(state.counts))]
        before = [total / max(1, count) for total, count in zip(totals, counts, strict=True)]
        for number, mean in zip(numbers, means, strict=True):
            if math.isfinite(mean):
                totals[number] += mean
                counts[number] += 1
        return Seen(totals, counts, before)

    def apply(self, credit: Credit, step: Step, state: Seen) -> Credit:
        """Leave the mean on every token."""
        before = credit.weights.new_tensor(state.before)
        numbers = step.rollouts.turn_numbers[step.index].to(step.mask.device)
        step.facts[HISTORY] = before[numbers]
        return credit
