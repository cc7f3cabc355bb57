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
from sympy import Integer

from megatron_stare.rewards.answers import marked_answer, stated_answer
from megatron_stare.rewards.equivalence import equal
from megatron_stare.rewards.notations import bases_agree, choices_agree, times_agree
from megatron_stare.rewards.numerals import plain_numbers
from megatron_stare.rewards.regions import joined_region
from megatron_stare.rewards.residues import congruences_agree
from megatron_stare.rewards.search import candidates, is_prose, searched
from megatron_stare.rewards.sequences import sequences_agree
from megatron_stare.rewards.spelling import latex_of
from megatron_stare.rewards.unfinished import leaves_work
from megatron_stare.rewards.units import units_differ, without_unit

# math-verify warns that its time limits are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_INTEGER = re.compile(r"[+-]?([0-9]{1,50}|[0-9]{1,3}(,[0-9]{3}){1,16})(\.0*)?")
_FUNCTION = re.compile(r"(y|(?P<name>[a-zA-Z](?:\^\{-1\})?)\s*\(\s*[a-z]\s*\))\s*=(?!.*=)")
_TURNED = re.compile(r"([^a-zA-Z=]+)=\s*([a-zA-Z])")
_LONGEST = 2000  # Characters of an answer; what is longer equals its own text alone.
_BOXED = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)


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
        return float(_agree(given, expected))
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
    given, expected = plain_numbers(latex_of(given)), plain_numbers(latex_of(expected))
    for verdict in (
        choices_agree(given, expected, _agree),
        times_agree(given, expected),
        bases_agree(given, expected),
        congruences_agree(given, expected),
        sequences_agree(given, expected, _agree),
    ):
        if verdict is not None:
            return verdict
    return _expressions_agree(given, expected)


def _expressions_agree(given: str, expected: str) -> bool:
    (given, unit), (expected, wanted) = without_unit(given), without_unit(expected)
    if units_differ(unit, wanted) or not given or not expected:
        return False
    at_sight = _equal_at_sight(given, expected)
    if at_sight is not None:
        return at_sight
    given = _TURNED.sub(r"\2=\1", given) if _TURNED.fullmatch(given) else given
    given, expected = _values_of_functions(_both_signs(given), _both_signs(expected))
    try:
        found, reference = _parsed(given), _parsed(expected)
        if not found or not reference or leaves_work(given, expected, found[0], reference[0]):
            return False
        return equal(reference, found)
    except Exception:  # sympy raises anything on what it has no rule for; math-verify says no too.
        return False


def _both_signs(text: str) -> str:
    """`\\frac{1 \\pm \\sqrt{5}}{2}` as two values; math-verify reads a sign outside of braces."""
    before, sign, after = text.partition(r"\pm")
    if not sign or r"\pm" in after or before.count("{") == before.count("}"):
        return text
    before = before.rpartition("=")[2]
    return f"{before}+{after},{before}-{after}"


def _values_of_functions(given: str, expected: str) -> tuple[str, str]:
    """Right sides, where both define a function and `y` may stand for its name."""
    mine, theirs = _FUNCTION.match(given), _FUNCTION.match(expected)
    if mine and theirs and None in (mine["name"], theirs["name"]):
        return given[mine.end() :], expected[theirs.end() :]
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
