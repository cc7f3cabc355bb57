"""Where an answer may stand in a text that marks none."""

from __future__ import annotations

import re

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

NORMALIZED = NormalizationConfig(units=False, malformed_operators=True, nits=True)
"""math-verify's own but for units, of which it takes `t` in `2t` for one."""
_ANYWHERE = [LatexExtractionConfig(normalization_config=NORMALIZED), ExprExtractionConfig()]
_STATED = re.compile(
    r"(?:answer|result|solution|option|choice)\s*(?:is|are|:|=)+\**\s*:?\s*"
    r"(?P<answer>(?s:\\\[.*?\\\]|\$\$.*?\$\$)|[^\n]*)"
    r"|(?:\bis|:)\s+(?P<formula>(?:\\left\s*)?[(\[{\\$0-9][^\n]*)",
    re.IGNORECASE,
)
_UNCERTAIN = re.compile(r"(?:not|neither|either|between|unknown)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"\.(?=\s|$)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}|\\text")
_LONGEST = 200


def candidates(text: str) -> list[str]:
    """Texts that may be the answer that `text` states: few, and of one place each.

    All of a short text; what its last "the answer is ..." says; then, unless that was a formula,
    what math-verify takes, which is the first "answer ..." or the last formula or number. What
    math-verify cannot parse is taken as text: no number is taken from inside it.
    """
    statements = list(_STATED.finditer(text))
    found = [text] if _is_bare(text) and not statements else []
    for statement in statements[-1:]:
        rest = statement["answer"] or statement["formula"] or ""
        if _UNCERTAIN.match(rest.lstrip(" *:$")):
            return []
        found += _formula_of(rest)
        if found and statement["answer"] and not _WORD.search(rest):
            return found
    return list(dict.fromkeys(found + searched(text)))


def searched(text: str) -> list[str]:
    """What math-verify takes for the answer, as text."""
    parsed = parse(text, _ANYWHERE, extraction_mode="first_match", parsing_timeout=0)
    return [item for item in parsed if isinstance(item, str) and item]


def is_prose(text: str) -> bool:
    """Whether `text` is too long to be an answer alone."""
    return len(text) > _LONGEST


def _is_bare(text: str) -> bool:
    """Whether `text` may be an answer and nothing else."""
    if is_prose(text) or "\n" in text:
        return False
    words = len(_WORD.findall(text))
    return words == 0 or (words < 4 and "=" not in text)


def _formula_of(rest: str) -> list[str]:
    """The one formula in what follows "the answer is", or its first sentence."""
    formulas = list(_FORMULA.finditer(rest))
    if len(formulas) == 1:
        return [next(group for group in formulas[0].groups() if group)]
    sentence = _SENTENCE.split(rest)[0].strip()
    return [sentence] if sentence and not is_prose(sentence) else []
