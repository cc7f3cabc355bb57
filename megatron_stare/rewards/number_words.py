"""Numbers in English words: `twenty-five`, `minus two hundred and one`, `two and a half`."""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: n for n, word in enumerate(_SMALL)} | {"a": 1, "an": 1}
_VALUES |= {word: 10 * n for n, word in enumerate(_TENS, 2)}
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Powers of ten that have a name."""
_PARTS = ["half", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_DIVISORS = {word: n for n, word in enumerate(_PARTS, 2)} | {"quarter": 4, "halve": 2}


def number_in_words(text: str) -> str | None:
    """The number that `text` says, as digits or as a fraction of LaTeX; None where it says none.

    >>> [number_in_words(t) for t in ("two and a half", "minus forty-two", "five six", "third")]
    ['\\\\frac{5}{2}', '-42', None, None]
    """
    words = re.sub("[- ]+", " ", text.lower()).split()
    is_negative = words[:1] in (["minus"], ["negative"])
    value = _value(words[is_negative:])
    if value is None:
        return None
    sign = "-" if is_negative else ""
    if value.denominator == 1:
        return f"{sign}{value}"
    return rf"{sign}\frac{{{value.numerator}}}{{{value.denominator}}}"


def _value(words: list[str]) -> Fraction | None:
    divisor = _DIVISORS.get(words[-1].removesuffix("s")) if words else None
    if divisor is None:
        return _whole(words) if words not in (["a"], ["an"]) else None
    counted = words[:-1] or (["a"] if words == ["half"] else [])
    last_and = max((i for i, word in enumerate(counted) if word == "and"), default=-1)
    whole = _whole(counted[:last_and]) if last_and > 0 else Fraction(0)
    parts = _whole(counted[last_and + 1 :])
    return None if whole is None or parts is None else whole + parts / divisor


def _whole(words: list[str]) -> Fraction | None:
    """A number without parts, if `words` are how it is said."""
    said = [word for word in words if word != "and"]
    total = group = 0
    for word in said:
        if word in SCALES and word != "hundred":
            total, group = total + group * 10 ** SCALES[word], 0
        else:
            group = group * 100 if word == "hundred" else group + _VALUES.get(word, 0)
    is_said = _in_words(total + group) == ["one" if word in ("a", "an") else word for word in said]
    return Fraction(total + group) if is_said and "and" not in (words[0], words[-1]) else None


def _in_words(number: int) -> list[str]:
    if number < len(_SMALL):
        return [_SMALL[number]]
    if number < 100:
        return [_TENS[number // 10 - 2], *(_in_words(number % 10) if number % 10 else [])]
    scale = max((name for name in SCALES if 10 ** SCALES[name] <= number), key=SCALES.__getitem__)
    above, below = divmod(number, 10 ** SCALES[scale])
    return [*_in_words(above), scale, *(_in_words(below) if below else [])]
