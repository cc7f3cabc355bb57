"""Numbers as people write them: digit groups, mixed numbers, periods, exponents, words."""

from __future__ import annotations

import re
from fractions import Fraction

from megatron_stare.rewards.number_words import SCALES, number_in_words
from megatron_stare.rewards.spelling import rewritten, substitution


def plain_numbers(text: str) -> str:
    """`text` (`spelling.latex_of`) with its numbers as digits and fractions.

    >>> [plain_numbers(t) for t in ("12 345", "1 1/2", r"0.\\overline{3}", "2.5e-3", "five")]
    ['12345', '\\\\frac{3}{2}', '\\\\frac{1}{3}', '2.5\\\\times 10^{-3}', '5']
    """
    return rewritten(text, _REWRITES)


def _joined(digits: str) -> str:
    return re.sub(r"[^0-9]", "", digits)


def _fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction."""
    whole, fixed, period = match["whole"] or "0", match["fixed"], match["period"]
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    value += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _improper_fraction(match: re.Match[str]) -> str:
    """`1\\frac{1}{2}` as one fraction; three times seven halves is no mixed number."""
    whole, top, bottom = (int(match[group][:100]) for group in (1, 2, 3))
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if top < bottom else match[0]


def _scaled(match: re.Match[str]) -> str:
    power = rf"\times 10^{{{SCALES[match['scale'].lower()]}}} "
    return match["number"] + power + (match["text"] or "")


_DECIMAL = r"(?P<whole>[0-9]{0,100})\.(?P<fixed>[0-9]{0,100}?)"
_GOES_ON = r"\s*(?:\.\.\.|\\[lc]?dots(?![a-zA-Z]))"
_NUMBER = r"(?:[0-9][0-9,]*(?:\.[0-9]*)?|\.[0-9]+)"

_REWRITES = [
    # Digits in groups.
    substitution(
        r"(?<![0-9.,])([0-9]{1,3}(?:(?: ?\{,\} ?| )[0-9]{3})+)(?![0-9])",
        lambda m: re.sub(r"[^0-9]", "", m[1]),
    ),
    substitution(r"(?<=[0-9])\{,\}(?=[0-9]{1,2}(?![0-9])|[0-9]{4})|(?<![0-9])(?<=0)\{,\}", "."),
    substitution(r"\{,\}", ","),
    substitution(r"(?<=[0-9])\\_(?=[0-9]{3})", ""),
    substitution(r"(?<![0-9_])([0-9]{1,3}(?:_[0-9]{3})+)(?![0-9_])", lambda m: _joined(m[1])),
    substitution(r"(?<![0-9'])([0-9]{1,3}(?:'[0-9]{3})+)(?![0-9'])", lambda m: _joined(m[1])),
    substitution(r"(?<![0-9.,])([0-9]{1,3}(?:, ?[0-9]{3})+)(?=\.[0-9])", lambda m: _joined(m[1])),
    substitution(
        r"(?<![0-9.,])([1-9][0-9]{0,2}(?:\.[0-9]{3}){2,})(?![0-9.])", lambda m: _joined(m[1])
    ),
    # Decimals that repeat.
    substitution("((?:[0-9][\u0304\u0305])+)", lambda m: rf"\overline{{{_joined(m[1])}}}"),
    substitution(
        r"\\dot\s*\{?([0-9])\}?(?:([0-9]*)\\dot\s*\{?([0-9])\}?)?",
        lambda m: rf"\overline{{{m[1]}{m[2] or ''}{m[3] or ''}}}",
    ),
    substitution(r"\\(?:bar|overline)\s*\{?\s*([0-9]+)\s*\}?", r"\\overline{\1}"),
    substitution(_DECIMAL + r"\s*\\overline\{(?P<period>[0-9]{1,100})\}", _fraction),
    substitution(_DECIMAL + r"\((?P<period>[0-9]{1,100})\)(?![0-9^])", _fraction),
    substitution(_DECIMAL + r"(?P<period>[0-9])(?P=period){2,}" + _GOES_ON, _fraction),
    substitution(_DECIMAL + r"(?P<period>[0-9]{2,20}?)(?P=period)+" + _GOES_ON, _fraction),
    # Powers of ten and mixed numbers.
    substitution(
        rf"(?<![a-zA-Z])({_NUMBER})[eE]([-+]?[0-9]{{1,4}})(?![0-9.a-zA-Z])",
        lambda m: rf"{m[1]}\times 10^{{{int(m[2])}}}",
    ),
    substitution(rf"({_NUMBER})\s*[xX*]\s*10\s*\^", r"\1\\times 10^"),
    substitution(
        r"(?<![0-9a-zA-Z.}\])^_/])([0-9]+) ([0-9]+)\s*/\s*([0-9]+)(?![0-9])", r"\1\\frac{\2}{\3}"
    ),
    substitution(
        r"(?<![0-9a-zA-Z.}\])^_/])([0-9]+) ?\\frac\{([0-9]+)\}\{([0-9]+)\}", _improper_fraction
    ),
    substitution(r"\^\{?([0-9]+)\}?\s*/\s*_\{?([0-9]+)\}?", r"\\frac{\1}{\2}"),
    substitution(r"^([0-9.]+)\s*(?:to|\\text\s*\{\s*to\s*\})\s*([0-9.]+)$", r"\1:\2"),
    # Words.
    substitution(
        r"(?i)^(?:\\text\s*\{\s*)?([a-z]+(?:[- ][a-z]+)*)\s*\}?$",
        lambda m: number_in_words(m[1]) or m[0],
    ),
    substitution(
        rf"(?i)^(?P<number>.*[0-9}}])\s*(?P<text>\\text\s*\{{)?\s*(?P<scale>{'|'.join(SCALES)})\b",
        _scaled,
    ),
]
