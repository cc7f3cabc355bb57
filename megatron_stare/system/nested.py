"""Mappings in mappings, as configs are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, with the keys that lead to it.

    >>> dict(dotted({"run": {"dir": "runs/1", "seed": 1}, "links": []}))
    {'run.dir': 'runs/1', 'run.seed': 1, 'links': []}
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
