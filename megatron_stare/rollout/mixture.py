"""Several sources of prompts, each with its share of what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from megatron_stare.errors import UserError
from megatron_stare.rollout.sampler import Prompts
from megatron_stare.types import Group, Prompt


class Mixture:
    """Draws from sources by their weights; after every prompt each has had its share to within one.

    Which source is next depends on how many prompts each has given, and on nothing else. What is
    drawn of a source is its own affair: epoch after epoch, or as its curriculum says.
    """

    def __init__(self, sources: Mapping[str, Prompts], weights: Mapping[str, float]) -> None:
        self._sources = dict(sources)
        self._weights = {name: weights[name] for name in sources}
        self._shares = shares_of(self._weights)
        self._drawn = dict.fromkeys(sources, 0)
        """Since the weights are these."""

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts, their sources in turn."""
        turns: list[str] = []
        for _ in range(count):
            turns.append(next_in_turn(self._drawn, self._shares))
            self._drawn[turns[-1]] += 1
        drawn = {
            name: iter(source.draw(turns.count(name)))
            for name, source in self._sources.items()
            if name in turns
        }
        return [next(drawn[name]) for name in turns]

    def observe(self, judged: Sequence[Group]) -> None:
        """End a step: every source is told of the groups that are its own."""
        for name, source in self._sources.items():
            source.observe([group for group in judged if group.prompt.source == name])

    def state_dict(self) -> dict[str, Any]:
        """Where drawing stands between two steps, as plain values."""
        return {
            "sources": {name: source.state_dict() for name, source in self._sources.items()},
            "weights": self._weights,
            "drawn": dict(self._drawn),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved; with other weights, their shares are of what comes now.

        Raises:
            UserError: the sources are not the same, or the data of one.
        """
        found = list(state["sources"]) if "sources" in state else None
        if found is None or {*found} != {*self._sources}:
            before = "one set of prompts" if found is None else f"[{', '.join(found)}]"
            raise UserError(
                f"data.sources=[{', '.join(self._sources)}]: the run has been trained with "
                f"{before}; go on with that, or begin anew (run.resume=never)"
            )
        for name, source in self._sources.items():
            source.load_state_dict(state["sources"][name])
        is_same = state["weights"] == self._weights
        self._drawn = {name: state["drawn"][name] if is_same else 0 for name in self._sources}


def shares_of(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """Weights as parts of their sum, exact: 0.1 is a tenth."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    return {name: weight / sum(exact.values()) for name, weight in exact.items()}


def next_in_turn(drawn: Mapping[str, int], shares: Mapping[str, Fraction]) -> str:
    """Whose turn it is, by how often each was drawn: |drawn - share * total| < 1 for all, always.

    Of those that are behind their share, the one whose next turn is due first (Tijdeman, The
    chairman assignment problem, Discrete Mathematics 32, 1980); of equals the first.

    >>> drawn, shares = {"a": 0, "b": 0, "c": 0}, shares_of({"a": 3, "b": 2, "c": 1})
    >>> for _ in range(6):
    ...     drawn[next_in_turn(drawn, shares)] += 1
    >>> drawn
    {'a': 3, 'b': 2, 'c': 1}
    """
    number, tolerance = sum(drawn.values()) + 1, Fraction(1, max(2 * len(shares) - 2, 1))
    behind = [name for name in shares if shares[name] * number - drawn[name] >= tolerance]
    return min(behind, key=lambda name: (drawn[name] + 1 - tolerance) / shares[name])
