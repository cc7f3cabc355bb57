"""Parts as users write them, good and bad, named in configs by `module:Class`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from megatron_stare.algorithms.hooks import Credit, Filter, Link, Need, Step, Term
from megatron_stare.algorithms.needs import OLD, ROLLOUT
from megatron_stare.types import Group


class Scaled(Link[None]):
    """weight * factor."""

    factor: float = Field(default=1.0, ge=0, le=10)
    """What all weights are multiplied by."""

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Of every token."""
        return credit.scaled(self.factor)


class _Hidden(Scaled):
    """The same under a name with an underscore."""


class json(Scaled):
    """The same under a name that a pydantic model has, too."""


class Between(Scaled):
    """The same, with settings that depend on each other, and one without a default."""

    low: float
    """Smallest factor."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Between:
        if self.low > self.factor:
            raise ValueError(f"low={self.low} exceeds factor={self.factor}")
        return self


class Chosen(Scaled):
    """The same, and reads what a setting without a default says."""

    reads: Literal["policy", "engine"]
    """Whose log-probs."""

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """Those."""
        return frozenset({OLD if self.reads == "policy" else ROLLOUT})


class Pull(Term[None]):
    """coef * logprob."""

    coef: float = 1.0
    """Weight of the term."""


class Sized(Filter):
    """Keeps groups of a size or more."""

    least: int = Field(default=2, ge=1, le=100)
    """Samples."""

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or None."""
        return group if len(group.rewards) >= self.least else None


class NotAPart:
    """Something else."""


A_NUMBER = 3
