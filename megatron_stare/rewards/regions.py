"""Inequalities joined by "or" and "and", as the set of numbers that they leave."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sympy import And, Basic, Intersection, Set, Union
from sympy.core.relational import Relational

_RELATION = re.compile(r"[<>]|\\[lg]e(?![a-z])|\\ne(?![a-z])")
_OR = re.compile(
    r",?\s*\\text\s*\{\s*,?\s*or\s*\}|,?\s*(?<![a-z\\])or(?![a-z])|\\(?:lor|vee|cup)(?![a-z])"
)
_AND = re.compile(
    r",?\s*\\text\s*\{\s*,?\s*and\s*\}|,?\s*(?<![a-z\\])and(?![a-z])|\\(?:land|wedge)(?![a-z])"
)


_COMMA = re.compile(",")


def joined_region(text: str, parsed: Callable[[str], list[Any]]) -> Set | None:
    """The set that several joined inequalities describe; None where `text` is none."""
    for word, join in ((_OR, Union), (_AND, Intersection), (_COMMA, _met_or_joined)):
        parts = word.split(text)
        if len(parts) > 1 and all(_RELATION.search(part) for part in parts):
            regions = [joined_region(part, parsed) or _region(parsed(part)) for part in parts]
            sets = [region for region in regions if region is not None]
            return join(*sets) if len(sets) == len(regions) else None
    return None


def _met_or_joined(*sets: Set) -> Set:
    """A comma is an "and", where that leaves anything: `x > 1, x < 3` but `x < 1, x > 3`."""
    met = Intersection(*sets)
    return Union(*sets) if met.is_empty else met


def _region(found: list[Any]) -> Set | None:
    relation = found[0] if found else None
    relations: Any = getattr(relation, "_unsorted_args", (relation,))
    if not all(isinstance(part, Relational) for part in relations):
        return None
    try:
        region = And(*relations).as_set()
    except (NotImplementedError, TypeError, ValueError):
        return None
    return region if isinstance(region, Basic) and isinstance(region, Set) else None
