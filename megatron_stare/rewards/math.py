"""Mathematical equivalence, by math-verify.

math-verify's own time limits rest on SIGALRM, which does not work in threads and does not interrupt
C code. They are off: what has a deadline is the process that runs the verification.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import parse, verify
from sympy import Integer

from megatron_stare.rewards.answers import marked_answer, stated_answer

# math-verify warns that its time limits are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_INTEGER = re.compile(r"[+-]?([0-9]{1,50}|[0-9]{1,3}(,[0-9]{3}){1,16})(\.0*)?")
_NUMBER = re.compile(r"[+-]?[0-9][0-9,]*(\.[0-9]*)?")
_OPERATOR = r"(?:[-−+*×·÷(]|\\(?:times|cdot|div|[bp]?mod)(?![a-z]))"
_ARITHMETIC = re.compile(rf"[0-9)}}]\s*{_OPERATOR}\s*(?!10\s*\^)[({{]?[0-9]")


def math_reward(response: str, answer: str) -> float:
    """1.0 when the response's final answer equals the reference mathematically, else 0.0.

    `answer` is an expression (`\\frac{1}{2}`, `27.0`, `10{,}000`) or a worked solution that marks
    its own. A response that marks no answer (`answers.marked_answer`) is searched by math-verify:
    "the final answer is ...", then "answer ...", then its last LaTeX expression or number.
    Where the reference is a number, arithmetic left to do (`12+34` for 46) is no answer: it would
    reward repeating the question.
    """
    given, expected = stated_answer(response), stated_answer(answer)
    if not given or not expected:
        return 0.0
    if given == expected:
        return 1.0
    integers = _integer(given), _integer(expected)
    if None not in integers:
        return float(integers[0] == integers[1])
    is_marked = marked_answer(response) is not None
    found = _parse_answer(given) if is_marked else parse(response, parsing_timeout=0)
    if _NUMBER.fullmatch(expected) and any(_leaves_arithmetic(text) for text in found):
        return 0.0
    return float(verify(_parse_answer(expected), found, timeout_seconds=0))


def _parse_answer(expression: str) -> list[Any]:
    """The expression as sympy reads it, if it can, and as text."""
    integer = _integer(expression)
    if integer is not None:
        return [Integer(integer)]
    return parse(rf"\boxed{{{expression}}}", parsing_timeout=0)


def _integer(text: str) -> int | None:
    """An integer as people write it (`1,000`, `27.0`, `+3.`), without the cost of a parser."""
    match = _INTEGER.fullmatch(text)
    return int(text.replace(",", "").partition(".")[0]) if match else None


def _leaves_arithmetic(found: Any) -> bool:
    """Whether an operator stands between numbers after the last `=`; not so in `3 \\times 10^5`."""
    return isinstance(found, str) and bool(_ARITHMETIC.search(found.rpartition("=")[2]))
