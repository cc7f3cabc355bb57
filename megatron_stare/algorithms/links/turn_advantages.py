"""Advantages of turns: the first link of a chain."""

from __future__ import annotations

from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Step
from megatron_stare.algorithms.needs import TURNS
from megatron_stare.algorithms.turns import Turns


class TurnAdvantages(Link[None]):
    """Makes advantages of turns from what every rank knows of all of them."""

    makes_advantages = True
    scope = "sample"
    needs = frozenset({TURNS})

    def of_turns(self, turns: Turns) -> Tensor:
        """The advantage of each turn, float `[N]`."""
        raise NotImplementedError

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Every token gets its turn's advantage."""
        return with_turns(credit, step, self.of_turns(step[TURNS]))


def with_turns(credit: Credit, step: Step, advantages: Tensor) -> Credit:
    """The credit with the advantages of its turns, `[N]`."""
    of_tokens = step[TURNS].of_tokens(advantages)[step.index]
    return credit.with_advantages(of_tokens.to(step.mask.device))
