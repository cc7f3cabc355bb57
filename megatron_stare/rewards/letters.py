"""Letters that may have any name: the argument of a function, the integer of a family."""

from __future__ import annotations

import re

_BOUND = [
    re.compile(r"^\s*\$?\s*[a-zA-Z]\s*\(\s*(?P<letter>[a-z])\s*\)\s*="),
    re.compile(r"[^a-zA-Z](?P<letter>[a-z])\s*(?:\\in|∈)\s*(?:\\mathbb\s*\{?Z\}?|ℤ)\s*\$?\s*\.?$"),
]


def with_letters_of(expected: str, given: str) -> str:
    r"""`given` with its bound letters named as those of `expected`, where both say which they are.

    >>> with_letters_of(r"k\pi, k \in \mathbb{Z}", r"2n\pi, n\in\mathbb{Z}")
    '2k\\pi, k\\in\\mathbb{Z}'
    """
    for bound in _BOUND:
        mine, theirs = bound.search(given), bound.search(expected)
        if mine and theirs and not re.search(_alone(theirs["letter"]), given):
            given = re.sub(_alone(mine["letter"]), theirs["letter"], given)
    return given


def _alone(letter: str) -> str:
    return rf"(?<![\\a-zA-Z]){letter}(?![a-zA-Z])"
