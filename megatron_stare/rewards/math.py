"""Mathematical equivalence, by math-verify.

An answer is brought to one spelling (`spelling`, `numerals`, `units`), notations that are not one
expression are compared as such (`notations`, `residues`, `sequences`), the rest is parsed by
math-verify and the parsed expressions are judged (`equivalence`, `unfinished`).

math-verify's own time limits rest on SIGALRM, which does not work in threads and does not interrupt
C code. They are off: what has a deadline is the process that runs the verification.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import LatexExtractionConfig, parse
from sympy import Integer, Rational

from megatron_stare.rewards.answers import boxed_list, marked_answer, stated_answer
from megatron_stare.rewards.equivalence import equal
from megatron_stare.rewards.letters import with_letters_of
from megatron_stare.rewards.notations import (
    bases_agree,
    choices_agree,
    ratios_agree,
    times_agree,
)
from megatron_stare.rewards.numerals import plain_numbers
from megatron_stare.rewards.regions import joined_region
from megatron_stare.rewards.residues import congruences_agree
from megatron_stare.rewards.search import NORMALIZED, candidates, is_prose, searched
from megatron_stare.rewards.sequences import sequences_agree
from megatron_stare.rewards.signs import both_signs
from megatron_stare.rewards.spelling import latex_of
from megatron_stare.rewards.unfinished import leaves_work, sides
from megatron_stare.rewards.units import units_differ, without_percent, without_unit
from megatron_stare.rewards.wording import remarks, words_agree

# math-verify warns that its time limits are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_INTEGER = re.compile(r"[+-]?([0-9]{1,50}|[1-9][0-9]{0,2}(,[0-9]{3}){1,16})(\.0*)?")
_COMMA = re.compile(
    r"^([^(\[{,0-9]*)([0-9]{1,3}(?:[. ][0-9]{3})+|[0-9]{1,50}),([0-9]{1,50})(?![0-9.,])"
)
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])")
_FUNCTION = re.compile(r"(y|(?P<name>[a-zA-Z](?:\^\{-1\})?)\s*\(\s*[a-z]\s*\))\s*=(?!.*=)")
_TUPLE, _SET = re.compile(r"(?:\\left)?\("), re.compile(r"(?:\\left)?\\\{(?!\s*(?:\\left)?\()")
_POINT = re.compile(r"^[A-Z]\s*(?=(?:\\left\s*)?\([^()]*,)")
_RELATION = re.compile(r"[=<>]|\\[lgn]e(?![a-z])")
_QUANTITY = re.compile(  # Of no digit and no other relation: what its name means does not matter.
    r"(?:\\(?!(?:not|[lgn]e|text)(?![a-z]))(?:[a-zA-Z]+|#)|[a-zA-Z_{}'\s]|\([^()=]*\))+=[^=<>]+$"
)
_TURNED = re.compile(r"([^a-zA-Z=]+)=\s*([a-zA-Z])")
_LONGEST = 2000  # Characters of an answer; what is longer equals its own text alone.
_BOXED = LatexExtractionConfig(
    boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=NORMALIZED
)


def math_reward(response: str, answer: str) -> float:
    """1.0 when the response's final answer equals the reference mathematically, else 0.0.

    `answer` is an expression (`\\frac{1}{2}`, `27.0`, `10{,}000`) or a worked solution that marks
    its own. A response that marks no answer (`answers.marked_answer`) is searched for one
    (`search.candidates`). Work left to do (`12+34` for 46, `\\int_0^1 2x\\,dx` for 1) is no answer:
    it would reward repeating the question.

    >>> math_reward(r"so \\boxed{0.5}.", r"\\frac12"), math_reward(r"\\boxed{12+34}", "46")
    (1.0, 0.0)
    """
    given, expected = stated_answer(response), stated_answer(answer)
    if not given or not expected:
        return 0.0
    if _equal_at_sight(given, expected):
        return 1.0
    if is_prose(expected):
        expected = next(iter(searched(expected)), expected)
    if marked_answer(response) is not None:
        if _agree(given, expected):
            return 1.0
        listed = boxed_list(response)
        return float(listed != given and _agree(listed, expected))
    return float(any(_agree(candidate, expected) for candidate in candidates(given)))


def _equal_at_sight(given: str, expected: str) -> bool | None:
    """Equality of texts and of integers, without the cost of a parser; None where it takes one."""
    if given == expected:
        return True
    integers = _integer(given), _integer(expected)
    return None if None in integers else integers[0] == integers[1]


def _agree(given: str, expected: str) -> bool:
    """Whether two answers mean the same."""
    at_sight = _equal_at_sight(given, expected)
    if at_sight is not None or len(given) > _LONGEST or len(expected) > _LONGEST:
        return bool(at_sight)
    given = with_letters_of(expected, given)
    given, expected = plain_numbers(latex_of(given)), plain_numbers(latex_of(expected))
    for verdict in (
        choices_agree(given, expected, _agree),
        words_agree(given, expected),
        times_agree(given, expected),
        ratios_agree(given, expected, _agree),
        bases_agree(given, expected),
        congruences_agree(given, expected),
        sequences_agree(given, expected, _agree),
    ):
        if verdict is not None:
            return verdict
    return any(_expressions_agree(reading, expected) for reading in _readings(given, expected))


def _readings(given: str, expected: str) -> list[str]:
    """`given`, and with its commas as marks of thousands or decimals where that may be meant."""
    decimal = _COMMA.sub(lambda m: f"{m[1]}{re.sub('[. ]', '', m[2])}.{m[3]}", given)
    thousands = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), given)
    if thousands != given and (", " in given or not re.search(r"[(\[{]", given)):
        return [given, thousands]
    is_number = "," not in expected and decimal.count(",") == 0
    return [given, decimal] if decimal != given and is_number else [given]


def _expressions_agree(given: str, expected: str) -> bool:
    (given, unit), (expected, wanted) = without_unit(given), without_unit(expected)
    (given, percent), (expected, wanted_percent) = without_percent(given), without_percent(expected)
    if units_differ(unit, wanted) or not given or not expected:
        return False
    if not _is_chain(sides(given)) or remarks(sides(given)[-1]) != remarks(sides(expected)[-1]):
        return False
    if _TUPLE.match(expected):  # Of a point the name may be said, as in A(1,2).
        given = _POINT.sub("", given)
    if any(_TUPLE.match(a) and _SET.match(b) for a, b in ((given, expected), (expected, given))):
        return False
    at_sight = _equal_at_sight(_tight(given), _tight(expected))
    if at_sight or (at_sight is not None and percent == wanted_percent):
        return at_sight
    given = _TURNED.sub(r"\2=\1", given) if _TURNED.fullmatch(given) else given
    given, expected = _values_of_functions(both_signs(given), both_signs(expected))
    try:
        found, reference = _parsed(given), _parsed(expected)
        if isinstance(found[0], str) and _QUANTITY.match(given) and not _RELATION.search(expected):
            found = _parsed(sides(given)[-1])
        if not found or not reference or leaves_work(given, expected, found[0], reference[0]):
            return False
        if equal(reference, found):
            return True
        if percent == wanted_percent:
            return False
        found, reference = (reference, found) if wanted_percent else (found, reference)
        return equal(reference[:1], [found[0] * Rational(1, 100)])
    except Exception:  # sympy raises anything on what it has no rule for; math-verify says no too.
        return False


def _is_chain(sides: list[str]) -> bool:
    """Whether something stands between all equals signs, and no two sides are other integers."""
    integers = {_integer(side.strip()) for side in sides} - {None}
    return all(map(str.strip, sides[1:-1])) and len(integers) < 2


def _tight(text: str) -> str:
    """`text` without the gaps that part no two words or numbers."""
    return re.sub(r"(?<![0-9a-zA-Z])\s+|\s+(?![0-9a-zA-Z])", "", text)


def _values_of_functions(given: str, expected: str) -> tuple[str, str]:
    """Right sides, where one alone defines a function, or `y` may stand for its name."""
    mine, theirs = _FUNCTION.match(given), _FUNCTION.match(expected)
    if mine and theirs and None in (mine["name"], theirs["name"]):
        return given[mine.end() :], expected[theirs.end() :]
    if mine and mine["name"] and not re.search(r"[=<>]", expected):
        return given[mine.end() :], expected
    if theirs and theirs["name"] and not re.search(r"[=<>]", given):
        return given, expected[theirs.end() :]
    return given, expected


def _parsed(expression: str) -> list[Any]:
    """The expression as sympy reads it, if it can, and as text."""
    integer = _integer(expression)
    if integer is not None:
        return [Integer(integer)]
    region = joined_region(expression, _parsed)
    if region is not None:
        return [region]
    text = rf"\boxed{{{expression}}}"
    return parse(text, [_BOXED], extraction_mode="first_match", parsing_timeout=0)


def _integer(text: str) -> int | None:
    """An integer as people write it (`1,000`, `27.0`, `+3.`), without the cost of a parser."""
    match = _INTEGER.fullmatch(text)
    return int(text.replace(",", "").partition(".")[0]) if match else None
