"""Sequences that an ellipsis shortens: `1, 3, 5, \\ldots, 2n-1`."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

Agree = Callable[[str, str], bool]
Terms = list[str]

_ELLIPSIS = re.compile(r"\\[lc]?dots[bcmio]?(?![a-z])|\.\.\.")
_NAMED = re.compile(r"^[^=<>]*=(?![^(]*\))")
_WRAPPED = re.compile(r"(?:\\left)?\s*(?:\\\{|[(\[])(.*?)(?:\\right)?\s*(?:\\\}|[)\]])")
_LONGEST = 1000


def sequences_agree(given: str, expected: str, agree: Agree) -> bool | None:
    """Whether the terms that are written are the same; None where there is no ellipsis.

    More or fewer terms may be written out if they go on in the same way, and a sequence of
    integers may be written out whole.
    """
    if not (_ELLIPSIS.search(given) or _ELLIPSIS.search(expected)):
        return None
    mine, theirs = _runs(given), _runs(expected)
    if mine is None or theirs is None:
        return "".join(given.split()) == "".join(expected.split())
    if len(mine) == len(theirs) == 1 or len(mine) != len(theirs):
        return _same(_written_out(mine), _written_out(theirs), agree)
    if len(mine) == 2:
        return _heads_agree(mine[0], theirs[0], agree) and _tails_agree(mine[1], theirs[1], agree)
    return all(_same(one, other, agree) for one, other in zip(mine, theirs, strict=True))


def _runs(text: str) -> list[Terms] | None:
    """The terms before, between and behind the ellipses; None for a sum or a product."""
    text = _NAMED.sub("", text).strip()
    wrapped = _WRAPPED.fullmatch(text)
    text = wrapped[1] if wrapped else text
    if re.search(r"[-+*/]\s*$|\\(?:cdot|times)\s*$", _ELLIPSIS.split(text)[0]):
        return None
    return [[term.strip() for term in re.split("[,;]", run) if term.strip()]
            for run in _ELLIPSIS.split(text)]  # fmt: skip


def _same(mine: Terms | None, theirs: Terms | None, agree: Agree) -> bool:
    if mine is None or theirs is None or len(mine) != len(theirs):
        return False
    return all(agree(one, other) for one, other in zip(mine, theirs, strict=True))


def _heads_agree(mine: Terms, theirs: Terms, agree: Agree) -> bool:
    short, long = sorted((mine, theirs), key=len)
    if not all(agree(one, other) for one, other in zip(short, long, strict=False)):
        return False
    return len(short) in (len(long), *range(3, len(long))) or (bool(short) and _is_regular(long))


def _tails_agree(mine: Terms, theirs: Terms, agree: Agree) -> bool:
    if bool(mine) != bool(theirs):
        return False
    backwards = zip(reversed(mine), reversed(theirs), strict=False)
    return all(agree(one, other) for one, other in backwards)


def _is_regular(terms: Terms) -> bool:
    """Whether integers go on by equal steps or by equal ratios."""
    if not all(re.fullmatch("-?[0-9]{1,50}", term) for term in terms):
        return False
    numbers = [int(term) for term in terms]
    steps = {right - left for left, right in pairwise(numbers)}
    ratios = all(b * b == a * c for a, b, c in zip(numbers, numbers[1:], numbers[2:], strict=False))
    return len(steps) == 1 or (ratios and len(numbers) > 2)


def _written_out(runs: list[Terms]) -> Terms | None:
    """Every term of a finite sequence of integers with equal steps."""
    if len(runs) == 1:
        return runs[0]
    head, *_, tail = runs
    if len(runs) != 2 or not head or not tail or not _is_regular([*head, *head[-1:]][: len(head)]):
        integers = all(re.fullmatch("-?[0-9]{1,50}", term) for term in [*head, *tail])
        if len(head) != 1 or len(runs) != 2 or not tail or not integers:
            return None
    first, last = int(head[0]), int(tail[-1]) if re.fullmatch("-?[0-9]{1,50}", tail[-1]) else 0
    step = int(head[1]) - first if len(head) > 1 else 1
    if not step or not 0 <= (last - first) // step < _LONGEST or (last - first) % step:
        return None
    return [str(term) for term in range(first, last + (1 if step > 0 else -1), step)]
