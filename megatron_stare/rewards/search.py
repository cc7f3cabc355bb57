"""Where an answer may stand in a response that marks none."""

from __future__ import annotations

import re

from math_verify import parse

_STATED = re.compile(
    r"(?:final\s+answer|answer|result|solution)\s*(?:is|are|:|=)+\s*:?\s*(?:therefore\s*)?"
    r"([^\n]*)|(?:\bis|:)\s+((?:\\left\s*)?[(\[{\\$0-9][^\n]*)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\.(?=\s|$)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LONGEST = 200


def candidates(text: str) -> list[str]:
    """Texts that may be the answer that `text` states: few, and of one place each.

    All of a short text; what its last "the answer is ..." says; then what math-verify takes, which
    is the first "answer ..." or the last formula or number. What math-verify cannot parse is
    taken as text: no number is taken from inside it.
    """
    found = [text] if len(text) <= _LONGEST and "\n" not in text else []
    found += _stated(text)
    parsed = parse(text, extraction_mode="first_match", parsing_timeout=0)
    found += [item for item in parsed if isinstance(item, str)]
    return list(dict.fromkeys(filter(None, found)))


def _stated(text: str) -> list[str]:
    statements = list(_STATED.finditer(text))
    if not statements:
        return []
    rest = next(group for group in statements[-1].groups() if group is not None)
    formulas = list(_FORMULA.finditer(rest))
    if len(formulas) == 1:
        return [next(group for group in formulas[0].groups() if group)]
    return [_SENTENCE.split(rest)[0].strip()] if len(rest) <= _LONGEST else []
