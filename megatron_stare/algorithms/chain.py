"""The links of a run, with their states from step to step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_stare.algorithms.drawing import Drawing, drawing_of
from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.states import from_plain, to_plain


class Chain:
    """A method's links at work: one `apply` and one `report` a step, on every rank."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.states: dict[str, Any] = {name: link.start() for name, link in method.links.items()}

    def apply(self, step: Step, start: Credit | None = None) -> Credit:
        """The credit of this rank's tokens, without that of links which run in micro-batches.

        Args:
            start: where the chain begins; None is `first_credit`.
        """
        credit = first_credit(self.method, step) if start is None else start
        for name, link in self.method.early.items():
            self.states[name] = link.advance(self.states[name], step)
            credit = link.apply(credit, step, self.states[name])
        return credit

    @property
    def drawing(self) -> Drawing:
        """How the next samples are drawn."""
        links = self.method.links.items()
        return drawing_of([link.drawing(self.states[name]) for name, link in links])

    def report(self, credit: Credit, step: Step) -> dict[str, float]:
        """What the links log of a step that is done."""
        metrics: dict[str, float] = {}
        for name, link in self.method.links.items():
            metrics |= link.report(credit, step, self.states[name])
        return metrics

    def sets(self, credit: Credit, step: Step) -> dict[str, Tensor]:
        """Tokens that links have singled out in a step that is done, by set, bool `[r]`."""
        sets: dict[str, Tensor] = {}
        for name, link in self.method.links.items():
            sets |= link.sets(credit, step, self.states[name])
        return sets

    def state_dict(self) -> dict[str, Any]:
        """The state of every link by its name: plain values, or None."""
        return to_plain(self.states)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from saved states.

        Raises:
            UserError: they are of another method.
        """
        self.states = from_plain("algorithm.links", saved, self.states)


def first_credit(method: Method, step: Step, dtype: torch.dtype = torch.float32) -> Credit:
    """Before any link: no advantage, every weight 1, and the clips of the policy term."""
    (policy,) = method.policy.values()
    nothing = torch.zeros_like(step.mask, dtype=dtype)
    low, high = (nothing.new_tensor([clip]) for clip in policy.clip_range)
    return Credit(nothing, torch.ones_like(nothing), step.mask, low, high)
