"""Answers that are not one expression: choices, times of day, bases, congruences, sequences.

Each function says whether two answers agree in its notation, or None where it does not apply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

Agree = Callable[[str, str], bool]

_CHOICE = re.compile(
    r"(?:\\text\s*\{\s*)?(?:(?:option|choice|answer)\s*:?\s*)?"
    r"(?:\(\s*(?:\\text\s*\{\s*)?([A-J])\s*\}?\s*\)|([A-J])\s*(?:[).:]|(?=\}|$)))\s*[:.]?\s*(\})?\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_TIME = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d{2}))?(?:\s*:\s*(\d{2}))?\s*"
    r"(?:\\text\s*\{\s*)?(?:\\mathrm\s*\{\s*)?(?:([ap])\.?\s*m\.?)?\s*\}?",
    re.IGNORECASE,
)
_BASE_NAMES = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_BASED = re.compile(
    r"(?:\(|\\text\s*\{|\\mathrm\s*\{)?\s*([0-9][0-9A-Z. ]*|(?<=\{)[0-9A-Z]+|[A-F][0-9A-F]*(?=_))"
    r"\s*[)}]?\s*"
    r"(?:_\s*\{?\s*(?:\\text\s*\{|\()?\s*(?:base\s*\}?\s*)?([0-9]+|[a-z]+)\s*[})]?\s*\}?"
    r"|(?:\\text\s*\{)?\s*\(?\s*(?:in )?base[ -]*(?:\\text\s*\{)?\}?\s*([0-9]+|[a-z]+)\s*\)?\s*\}?)"
)


def choices_agree(given: str, expected: str, agree: Agree) -> bool | None:
    """`(C) 12` against `C`, against `12`, and against `(C) 12`."""
    mine, theirs = _choice(given), _choice(expected)
    if mine and theirs:
        (letter, value), (wanted, worth) = mine, theirs
        return letter == wanted and not (value and worth and not agree(value, worth))
    if mine and mine[1]:
        return agree(mine[1], expected)
    if theirs and theirs[1]:
        return agree(given, theirs[1])
    return None


def _choice(text: str) -> tuple[str, str] | None:
    match = _CHOICE.fullmatch(text)
    if not match:
        return None
    letter, value = match[1] or match[2], match[4].strip()
    if re.match(r"(?:\\text\s*\{\s*)?(?:,|or\b|and\b|\(\s*[A-J]\s*\))", value):
        return None
    if not (letter.isupper() or match[1]):
        return None
    if match[0].startswith(r"\text") and not match[3]:
        value = value.removesuffix("}")
    return letter.upper(), value.strip()


def times_agree(given: str, expected: str) -> bool | None:
    """`8:34 P.M.` against `20:34`; without a half of the day, hours to twelve are either."""
    mine, theirs = _TIME.fullmatch(given), _TIME.fullmatch(expected)
    if not (mine and theirs and (mine[2] or mine[4]) and (theirs[2] or theirs[4])):
        return None
    if not any(match[3] or match[4] for match in (mine, theirs)):
        return None
    return bool(_seconds(mine) & _seconds(theirs))


def _seconds(time: re.Match[str]) -> set[int]:
    hour, minute, second = (int(time[group] or 0) for group in (1, 2, 3))
    if time[4]:
        hours = {hour % 12 + 12 * (time[4].lower() == "p")}
    else:
        hours = {hour}
        if (1 <= hour <= 12 and len(time[1]) < 2) or hour in (10, 11, 12):
            hours |= {hour % 12, hour % 12 + 12}
    return {3600 * h + 60 * minute + second for h in hours}


def ratios_agree(given: str, expected: str, agree: Agree) -> bool | None:
    """`2:4:6` against `1:2:3`; a ratio of two is a fraction."""
    mine, theirs = _ratio(given), _ratio(expected)
    if max(len(mine), len(theirs)) < 3:
        return None
    return len(mine) == len(theirs) and all(map(agree, mine, theirs))


def _ratio(text: str) -> list[str]:
    parts = [part.strip() for part in text.rpartition("=")[2].split(":")]
    if not all(re.fullmatch("[0-9]{1,50}", part) for part in parts):
        return parts
    divisor = math.gcd(*map(int, parts)) or 1
    return [str(int(part) // divisor) for part in parts]


def bases_agree(given: str, expected: str) -> bool | None:
    """Digits and the base they are written in, which the reference alone may state."""
    mine, theirs = _based(given), _based(expected)
    if theirs and re.fullmatch(r"[0-9][0-9A-Z]*", given.replace(" ", "")):
        return _digits(given) == theirs[0]
    if mine and mine[1] == "10" and not theirs:
        return None
    if not (mine or theirs):
        return None
    return mine == theirs


def _based(text: str) -> tuple[str, str] | None:
    match = _BASED.fullmatch(re.sub(r"^[a-zA-Z]\w*\s*=\s*", "", text))
    if not match:
        return None
    base = match[2] or match[3]
    return _digits(match[1]), _BASE_NAMES.get(base, base)


def _digits(text: str) -> str:
    return text.replace(" ", "").lstrip("0") or "0"
