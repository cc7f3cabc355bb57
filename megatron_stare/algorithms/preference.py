"""The `algorithm` section of a run that learns from pairs."""

from __future__ import annotations

from pydantic import model_validator

from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.links.pairs import PAIR_LOSS, Pairs
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import (
    DEMONSTRATED,
    FAILED_CALLS,
    GUIDED,
    ROLES,
    ROLLOUT,
    TURN_REWARDS,
    TURNS,
    UNMADE,
    UNTRUNCATED,
)
from megatron_stare.algorithms.table import METHODS

_NOT_OF_PAIRS = (
    *(DEMONSTRATED, GUIDED, ROLLOUT, UNTRUNCATED, *UNMADE),
    *(TURNS, TURN_REWARDS, FAILED_CALLS, ROLES),
)
"""Of rollouts alone."""


class PreferenceAlgorithm(AlgorithmConfig):
    """Which method learns from pairs of a better and a worse response."""

    method: str = "dpo"
    """A preset that compares pairs (`megatron-stare methods`); the keys below replace its parts."""

    @property
    def comparison(self) -> Pairs:
        """The link that compares pairs."""
        (comparison,) = _comparisons(self)
        return comparison

    @model_validator(mode="after")
    def _learns_from_pairs(self) -> PreferenceAlgorithm:
        able = ", ".join(name for name, method in METHODS.items() if _comparisons(method))
        if (count := len(_comparisons(self))) != 1:
            raise ValueError(
                f"method={self.method!r}: {count} of links=[{', '.join(self.links)}] compare "
                f"pairs, expected one of {able}"
            )
        for name, term in self.policy.items():
            if PAIR_LOSS not in term.needs:
                raise ValueError(
                    f"policy=[{name}] learns from no pairs: expected tangent, of method {able}"
                )
        for name, part in self.parts.items():
            for need in part.needs.intersection(_NOT_OF_PAIRS):
                raise ValueError(f"{name} reads {need.name}, which pairs do not have: leave it out")
        if self.curriculum:
            raise ValueError(
                f"curriculum=[{', '.join(self.curriculum)}]: pairs are drawn epoch after epoch, "
                "expected none"
            )
        if self.passes > 1:
            raise ValueError(
                f"{', '.join(self.updates)} goes through a batch {self.passes} times: a loss of "
                "pairs is that of the one update behind their scores, expected 1"
            )
        return self


def _comparisons(method: Method) -> list[Pairs]:
    return [link for link in method.links.values() if isinstance(link, Pairs)]
