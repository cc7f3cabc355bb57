"""Work left to do: an answer that names the computation instead of its result.

Such an answer equals the reference, and a policy soon finds that repeating the question pays. It
is refused where the reference is finished; what the reference itself leaves, an answer may leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sympy import (
    Abs,
    Add,
    Basic,
    Eq,
    Expr,
    Float,
    I,
    MatrixBase,
    Mul,
    Pow,
    Rational,
    Symbol,
    Tuple,
    factorial,
    nsimplify,
    prod,
)  # fmt: skip
from sympy.core.expr import UnevaluatedExpr
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.functions.elementary.exponential import log
from sympy.functions.elementary.hyperbolic import HyperbolicFunction
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
    "juxtaposition": r"[0-9)}](?<!\^\{-1\})\s*\(\s*-?[0-9.]+\s*\)|(?<![0-9.^_])[0-9.]+\s+[0-9]",
    "matrices": r"\\end\{[bp]?matrix\}\s*(?:\^|(?:\\cdot|\\times|[-+])?\s*\\begin)"
    r"|[0-9}]\s*(?:\\cdot|\\times)?\s*\\begin\{[bp]?matrix",
    "power of zero or one": r"(?<!10)\^\s*(?:\{\s*[01]\s*\}|[01](?![0-9./]))",
    "special function": r"\\(?:Gamma|zeta)\s*(?:\\left\s*)?\(\s*[0-9]",
    "infinity": r"[0-9)]\s*(?:\\cdot|\\times)?\s*\\infty|\\infty\s*[-+*/^]|\{\s*\\infty\s*\}",
    "sign": r"-\s*\(?\s*-",
}  # fmt: skip
_I = (I, Symbol("i", real=False))
_PATTERNS = {name: re.compile(pattern) for name, pattern in _OPERATIONS.items()}
_FUNCTIONS = {
    "trigonometric": (
        (TrigonometricFunction, HyperbolicFunction),
        re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)h?(?![a-z])(?!\s*\^\s*\{?\s*-\s*1)"),
    ),
    "inverse trigonometric": ((InverseTrigonometricFunction,), re.compile(r"\\arc|\^\{-1\}\s*\(")),
    "logarithm": ((log,), re.compile(r"\\(?:ln|log|lg)(?![a-z])")),
    "absolute value": ((Abs,), re.compile(r"(?!)")),
}


def leaves_work(given: str, expected: str, found: Any, reference: Any) -> bool:
    """Whether `given`, parsed as `found`, names operations that the reference does not.

    `given` and `expected` are `spelling.latex_of` texts, of equal value.
    """
    if _operations(sides(given)[-1]) - _operations(expected):
        return True
    if isinstance(found, MatrixBase) and isinstance(reference, MatrixBase):
        found, reference = Tuple(*found), Tuple(*reference)
    if not (isinstance(found, Basic) and isinstance(reference, Basic)):
        return False
    if _is_unsolved(found) and not _is_unsolved(reference):
        return True
    found = _last_side(found)
    functions = _functions(sides(given)[-1], found) - _functions(expected, reference)
    if functions and not _rounds(reference, found):
        return True
    is_formula = isinstance(found, Expr) and isinstance(reference, Expr)
    if is_formula and found.free_symbols and not reference.free_symbols:  # They cancel.
        return True
    return has_arithmetic(found) and not has_arithmetic(reference)


def _is_unsolved(region: Basic) -> bool:
    """Whether an inequality is about more than a letter or a function: `x^2 < 4`."""
    relations = region.atoms(Relational) - region.atoms(Eq)
    sides = [side for relation in relations for side in relation.args if side.free_symbols]
    return any(not isinstance(side, (Symbol, AppliedUndef)) for side in sides)


def _rounds(reference: Basic, found: Basic) -> bool:
    """Whether the reference is a decimal that is near to `found`, not the same."""
    if not (isinstance(reference, Float) and isinstance(found, Expr)):
        return bool(reference.has(Float))
    return bool(abs((found - nsimplify(reference, rational=True)).evalf(50)) > 1e-30)


def sides(text: str) -> list[str]:
    """What the equals signs outside of braces part."""
    found, depth, start = [], 0, 0
    for match in re.finditer(r"[{}=]", text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[0] == "=" and depth == 0:
            found.append(text[start : match.start()])
            start = match.end()
    return [*found, text[start:]]


def _operations(text: str) -> set[str]:
    return {name for name, pattern in _PATTERNS.items() if pattern.search(text)}


def _functions(text: str, expression: Basic) -> set[str]:
    """Kinds of functions that are applied to numbers, and those that the parser evaluated."""
    return {
        name
        for name, (kinds, written) in _FUNCTIONS.items()
        if any(
            not node.free_symbols or not node.doit().has(*kinds)
            for node in expression.atoms(*kinds)
        )
        or (not expression.atoms(*kinds) and written.search(text))
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
        terms = list(_terms(node))
        if sum(is_rational(term) for term in terms) > 1:
            return True
        kinds = [_kind(term) for term in terms]
        return len(set(kinds)) < len(kinds) or _hides_imaginary_unit(terms)
    return isinstance(node, Mul) and _multiplies(node)


def _kind(term: Any) -> Any:
    """What a term is a multiple of."""
    if term.free_symbols:
        return prod(f for f in Mul.make_args(term) if not is_rational(f))
    return term.doit().as_coeff_Mul()[1]


def _hides_imaginary_unit(terms: list[Any]) -> bool:
    """Whether `i` stands in brackets beside what is to be added to them: `2(1+i)+i`."""
    hidden = [any(isinstance(f, Add) and f.has(*_I) for f in term.args) for term in terms]
    return any(hidden) and any(
        is_rational(term) or term.has(*_I)
        for term, is_hidden in zip(terms, hidden, strict=True)
        if not is_hidden
    )


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
    if _has_like_letters(args):
        return True
    if any(_is_power(factor) or _is_whole_root(factor) for factor in factors) and (
        divisors or any(not is_rational(factor) for factor in args)
    ):
        return True
    if divisors and any(_is_fraction(number) for number in factors):
        return True
    powers = [{n.base for n in numbers if isinstance(n, Pow)} for numbers in (factors, divisors)]
    if powers[0] & powers[1]:
        return True
    if any(isinstance(number, factorial) for number in factors):
        return bool(divisors)
    return any(_is_fraction(divisor) for divisor in divisors)


def _has_like_letters(factors: tuple[Any, ...]) -> bool:
    """Whether a letter or a constant comes twice: `x x`; `x^2/x`, but not a root over itself."""
    powers = [factor.as_base_exp() for factor in factors]
    letters = [
        (base, power)
        for base, power in powers
        if base.is_Atom and power.is_Rational and not is_rational(base)
    ]
    above = [base for base, power in letters if power > 0]
    whole = [base for base, power in letters if power.is_Integer]
    return any(len(set(like)) < len(like) for like in (above, whole))


def _parts(product: Mul) -> tuple[list[Basic], list[Basic]]:
    """The rational factors and divisors of a product, signs and percent aside."""
    factors: list[Basic] = []
    divisors: list[Basic] = []
    for factor in product.args:
        if isinstance(factor, Mul):
            inner = _parts(factor)
            factors += [number for number in inner[0] if number != 1]
            divisors += inner[1]
        elif isinstance(factor, Pow) and factor.exp == -1:
            divisors += [factor.base] if is_rational(factor.base) else []
        elif factor != -1 and (is_rational(factor) or _is_whole_root(factor)):
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


def _is_fraction(node: Basic) -> bool:
    return isinstance(node, Rational) and node.q != 1


def _is_power(node: Basic) -> bool:
    return isinstance(node, Pow) and is_rational(node) and not _is_power_of_ten(node)


def _is_whole_root(node: Basic) -> bool:
    return _is_root(node) and bool(node.doit().is_Rational)


def _is_root(node: Any) -> bool:
    is_number = isinstance(node, Pow) and is_rational(node.base) and node.exp.is_Rational
    return bool(is_number and 0 < node.exp < 1)


def _is_power_of_ten(node: Basic) -> bool:
    return isinstance(node, Pow) and node.base == 10
