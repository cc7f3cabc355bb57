"""The links of a run, with their states from step to step."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import Any

import torch

from megatron_stare.algorithms.hooks import Credit, Step
from megatron_stare.algorithms.method import Method
from megatron_stare.errors import UserError


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

    def report(self, credit: Credit, step: Step) -> dict[str, float]:
        """What the links log of a step that is done."""
        metrics: dict[str, float] = {}
        for name, link in self.method.links.items():
            metrics |= link.report(credit, step, self.states[name])
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The state of every link by its name: plain values, or None."""
        return {
            name: None if state is None else asdict(state) for name, state in self.states.items()
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from saved states.

        Raises:
            UserError: they are of another method.
        """
        if list(saved) != list(self.states):
            raise UserError(
                f"algorithm.links={_listed(self.states)}: the run has been trained with "
                f"{_listed(saved)}; go on with these, or begin anew (run.resume=never)"
            )
        self.states = {
            name: _restored(name, self.states[name], values) for name, values in saved.items()
        }


def first_credit(method: Method, step: Step, dtype: torch.dtype = torch.float32) -> Credit:
    """Before any link: no advantage, every weight 1, and the clips of the policy term."""
    (policy,) = method.policy.values()
    nothing = torch.zeros_like(step.mask, dtype=dtype)
    low, high = (nothing.new_tensor([clip]) for clip in policy.clip_range)
    return Credit(nothing, torch.ones_like(nothing), step.mask, low, high)


def _restored(name: str, start: Any, values: Any) -> Any:
    expected = [field.name for field in fields(start)] if is_dataclass(start) else None
    found = None if values is None else list(values)
    if found != expected:
        raise UserError(
            f"algorithm.links: the state of {name} was saved as {found}, expected {expected}; "
            "it is of another version of this link"
        )
    return None if values is None else type(start)(**values)


def _listed(names: Any) -> str:
    return f"[{', '.join(names)}]"
