"""The verifier of countdown: three given numbers, two signs, the target, and nothing else.

A prompt `03,07,05>26:` asks for an expression of its three numbers, each once, that makes 26:
`07*03+05`. Signs are `+`, `-` and `*`, which binds tighter; there are no brackets. Every number has
two digits, so that a text is one row of tokens, and no other spelling of it can be paid for.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SIGNS = "+-*"
FORMS = ("sums", "a*b+c", "a*b-c", "c-a*b", "a*b*c")
"""What an answer may look like, by where its products are; `sums` has none."""

_EXPRESSION = re.compile(r"([0-9]{2})([-+*])([0-9]{2})([-+*])([0-9]{2})")
_PROBLEM = re.compile(r"([0-9]{2}),([0-9]{2}),([0-9]{2})>([0-9]{2})")


class Expression(NamedTuple):
    """Three numbers in their order, and the two signs between them."""

    numbers: tuple[int, int, int]
    signs: str

    def __str__(self) -> str:
        (a, b, c), (first, second) = self.numbers, self.signs
        return f"{a:02}{first}{b:02}{second}{c:02}"

    @property
    def value(self) -> int:
        """What it makes, with products first."""
        (a, b, c), (first, second) = self.numbers, self.signs
        if first != "*" and second == "*":
            return _apply(a, first, b * c)
        return _apply(_apply(a, first, b), second, c)

    @property
    def form(self) -> str:
        """One of `FORMS`."""
        if "*" not in self.signs:
            return "sums"
        if self.signs == "**":
            return "a*b*c"
        if "+" in self.signs:
            return "a*b+c"
        return "a*b-c" if self.signs == "*-" else "c-a*b"


def _apply(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def read_expression(text: str) -> Expression | None:
    """The expression that `text` is, all of it; None where it is none."""
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        return None
    a, first, b, second, c = found.groups()
    return Expression((int(a), int(b), int(c)), first + second)


def read_problem(text: str) -> tuple[tuple[int, int, int], int]:
    """Numbers and target of `03,07,05>26`.

    Raises:
        ValueError: it is no problem; the verifier's failure then, and not the response's.
    """
    found = _PROBLEM.fullmatch(text)
    if found is None:
        raise ValueError(f"answer: expected a problem such as 03,07,05>26, found {text!r:.80}")
    a, b, c, target = map(int, found.groups())
    return (a, b, c), target


def countdown_reward(response: str, answer: str) -> float:
    """1.0 where the whole response is an expression that solves the problem `answer`; else 0.0.

    >>> countdown_reward("07*03+05", "03,07,05>26")
    1.0
    >>> countdown_reward("07*03+05+00", "03,07,05>26")
    0.0
    """
    numbers, target = read_problem(answer)
    expression = read_expression(response)
    return float(
        expression is not None
        and sorted(expression.numbers) == sorted(numbers)
        and expression.value == target
    )
