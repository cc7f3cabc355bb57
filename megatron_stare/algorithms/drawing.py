"""How samples are drawn, where a method says it: what a link hands to engines and sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.types import Group


class Budget(NamedTuple):
    """How many samples a prompt gets: `first` at once, and then one after another.

    As long as the group that is judged so far `goes_on`, up to `rollout.samples_per_prompt`.
    """

    first: int
    goes_on: Callable[[Group], bool]


class Drawing(NamedTuple):
    """The rule that moves the temperature of each token, and how many samples a prompt gets."""

    rule: EntropyTemperature | None = None
    budget: Budget | None = None

    def first_of(self, most: int) -> int:
        """Samples of a prompt that are drawn at once, of so many at most."""
        return most if self.budget is None else min(self.budget.first, most)

    def goes_on(self, group: Group, most: int) -> bool:
        """Whether a judged group is to have one more."""
        budget = self.budget
        return budget is not None and len(group.samples) < most and budget.goes_on(group)


def drawing_of(links: Sequence[Drawing]) -> Drawing:
    """What links say together: of each part, what the last says that says anything."""
    rules = [None, *(each.rule for each in links if each.rule is not None)]
    budgets = [None, *(each.budget for each in links if each.budget is not None)]
    return Drawing(rules[-1], budgets[-1])
