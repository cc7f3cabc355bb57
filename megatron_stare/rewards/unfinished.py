"""Work left to do: an answer that names the computation instead of its result.

Such an answer equals the reference, and a policy soon finds that repeating the question pays. It
is refused where the reference is finished; what the reference itself leaves, an answer may leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sympy import Abs, Add, Basic, Float, Mul, Pow, Rational, factorial
from sympy.core.expr import UnevaluatedExpr
from sympy.functions.elementary.exponential import log
from sympy.functions.elementary.trigonometric import (
    InverseTrigonometricFunction,
    TrigonometricFunction,
)

_OPERATIONS = {
    "sum": r"\\sum",
    "product": r"\\prod",
    "integral": r"\\[io]?i*int(?![a-z])",
    "limit": r"\\lim(?:sup|inf)?(?![a-z])",
    "divisor": r"\\?(?:gcd|gcf|hcf)(?![a-z])",
    "multiple": r"\\?lcm(?![a-z])",
    "extremum": r"\\?(?<![a-z])(?:max|min|sup|inf)(?![a-z])",
    "rounding": r"\\[lr]?(?:floor|ceil)(?![a-z])|(?<![a-z])(?:floor|ceil|round)(?![a-z])",
    "determinant": r"\\det(?![a-z])|\{vmatrix\}|\|\s*\\begin|(?<![a-z])(?:det|tr|rank)(?![a-z])",
    "derivative": r"\\frac\s*\{\s*(?:d|\\partial)(?:\s*\^[^{}]*|\^\{[^{}]*\})?[^{}]*\}"
    r"\s*\{\s*(?:d|\\partial)\s*\\?[a-z]|[a-z0-9)}]'|(?<![a-z])d/d[a-z]",
    "remainder": r"\\[bp]?mod(?![a-z])|(?<![a-z])mod(?![a-z])",
    "substitution": r"\|\s*_|\]\s*_[^_^]*\^",
    "division": r"\\div(?![a-z])",
    "ellipsis": r"\\[lc]?dots",
    "juxtaposition": r"[0-9)}]\s*\(\s*-?[0-9.]+\s*\)",
    "matrices": r"\\end\{[bp]?matrix\}\s*(?:\\cdot|\\times|[-+])?\s*\\begin",
    "sign": r"-\s*\(?\s*-",
}  # fmt: skip
_PATTERNS = {name: re.compile(pattern) for name, pattern in _OPERATIONS.items()}
_FUNCTIONS = {
    "trigonometric": (TrigonometricFunction, re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")),
    "inverse trigonometric": (InverseTrigonometricFunction, re.compile(r"\\arc|\^\{-1\}\s*\(")),
    "logarithm": (log, re.compile(r"\\(?:ln|log|lg)(?![a-z])")),
    "absolute value": (Abs, re.compile(r"(?!)")),
}


def leaves_work(given: str, expected: str, found: Any, reference: Any) -> bool:
    """Whether `given`, parsed as `found`, names operations that the reference does not.

    `given` and `expected` are `spelling.latex_of` texts, of equal value.
    """
    if _operations(_behind_equals(given)) - _operations(expected):
        return True
    if not (isinstance(found, Basic) and isinstance(reference, Basic)):
        return False
    found = _last_side(found)
    if not reference.has(Float) and _functions(given, found) - _functions(expected, reference):
        return True
    return has_arithmetic(found) and not has_arithmetic(reference)


def _behind_equals(text: str) -> str:
    """What stands behind the last equals sign outside of braces."""
    depth, start = 0, 0
    for match in re.finditer(r"[{}=]", text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[0] == "=" and depth == 0:
            start = match.end()
    return text[start:]


def _operations(text: str) -> set[str]:
    return {name for name, pattern in _PATTERNS.items() if pattern.search(text)}


def _functions(text: str, expression: Basic) -> set[str]:
    """Kinds of functions that are applied to numbers, those that the parser evaluated too."""
    return {
        name
        for name, (kind, written) in _FUNCTIONS.items()
        if any(not node.free_symbols for node in expression.atoms(kind))
        or (not expression.free_symbols and written.search(text))
    }


def _last_side(expression: Basic) -> Basic:
    """What stands behind the last equals sign."""
    while getattr(expression, "is_Relational", False) or type(expression).__name__ == "And":
        args = getattr(expression, "_unsorted_args", expression.args)
        expression = args[-1]
    return expression


def has_arithmetic(expression: Basic) -> bool:
    """Whether rational numbers are left to add or to multiply, or like multiples of a constant.

    A fraction, a power, a root, a mixed number, a percentage and `3 \\times 10^5` are numbers.
    """
    return any(_is_arithmetic(node) for node in _nodes(expression))


def _nodes(expression: Basic) -> Iterator[Basic]:
    yield expression
    for child in expression.args:
        if isinstance(child, Basic):
            yield from _nodes(child)


def _is_arithmetic(node: Basic) -> bool:
    if isinstance(node, Add):
        constants = [term for term in _terms(node) if not term.free_symbols]
        if sum(is_rational(term) for term in constants) > 1:
            return True
        kinds = [term.doit().as_coeff_Mul()[1] for term in constants] if constants[1:] else []
        return len(set(kinds)) < len(kinds)
    return isinstance(node, Mul) and _multiplies(node)


def _terms(node: Any) -> Iterator[Any]:
    """The terms of a sum of sums."""
    for term in node.args:
        yield from _terms(term) if isinstance(term, Add) else [term]


def _multiplies(product: Mul) -> bool:
    factors, divisors = _parts(product)
    if len(factors) == 2 and any(_is_power_of_ten(factor) for factor in factors):
        return False
    args: tuple[Any, ...] = product.args
    roots = [factor.exp for factor in args if _is_root(factor)]
    if len(factors) > 1 or len(divisors) > 1 or len(set(roots)) < len(roots):
        return True
    if any(isinstance(number, factorial) for number in factors):
        return bool(divisors)
    return any(isinstance(divisor, Rational) and divisor.q != 1 for divisor in divisors)


def _parts(product: Mul) -> tuple[list[Basic], list[Basic]]:
    """The rational factors and divisors of a product, signs and percent aside."""
    factors: list[Basic] = []
    divisors: list[Basic] = []
    for factor in product.args:
        if isinstance(factor, Mul):
            inner = _parts(factor)
            factors += inner[0]
            divisors += inner[1]
        elif isinstance(factor, Pow) and factor.exp == -1:
            divisors += [factor.base] if is_rational(factor.base) else []
        elif is_rational(factor) and factor not in (1, -1):
            factors.append(factor)
    return factors, divisors


def is_rational(node: Basic) -> bool:
    """Whether `node` is built of rational numbers alone, by looks."""
    if isinstance(node, UnevaluatedExpr):
        return False
    if isinstance(node, (Rational, Float)):
        return True
    if isinstance(node, Pow):
        return is_rational(node.base) and bool(node.exp.is_Integer)
    if isinstance(node, (Add, Mul, factorial)):
        return all(is_rational(child) for child in node.args)
    return False


def _is_root(node: Any) -> bool:
    return isinstance(node, Pow) and is_rational(node.base) and 0 < node.exp < 1


def _is_power_of_ten(node: Basic) -> bool:
    return isinstance(node, Pow) and node.base == 10
