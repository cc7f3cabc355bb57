"""Equality of parsed answers: math-verify's, and what it rounds away or takes at its word."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from latex2sympy2_extended.sets import FiniteSet as ParsedSet
from math_verify import verify
from sympy import (
    Basic,
    Derivative,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Integral,
    Interval,
    Limit,
    MatrixBase,
    Mul,
    Product,
    Rational,
    Sum,
    Tuple,
)  # fmt: skip
from sympy.core.expr import UnevaluatedExpr
from sympy.core.relational import Relational

from megatron_stare.rewards.unfinished import is_rational

_PERCENT = UnevaluatedExpr(Rational(1, 100))
_DIGITS = 60
_SAMPLES = [Rational(n, d) for n, d in ((7, 5), (23, 7), (-11, 9), (5, 13), (-31, 11), (101, 3))]
_UNDONE = (Sum, Product, Integral, Limit, Derivative)


def equal(expected: list[Any], found: list[Any]) -> bool:
    """Whether what math-verify parsed is the same; each list holds an expression, a text, or both.

    math-verify compares with an absolute tolerance; here numbers below 1/1000 are compared
    relatively, exact ones to 50 digits.
    """
    reference, answer = expected[0], found[0]
    is_parsed = isinstance(reference, (Basic, MatrixBase)) and isinstance(
        answer, (Basic, MatrixBase)
    )
    if is_parsed and is_false_chain(answer):
        return False
    if isinstance(reference, (FiniteSet, ParsedSet)) and _is_inequality(answer):
        return False
    if verify(expected, found, allow_set_relation_comp=True, timeout_seconds=0):
        return not is_parsed or not _differ(reference, answer)
    if _percent(reference) != _percent(answer):
        return _agree(_without_percent(reference), _without_percent(answer)) is True
    return is_parsed and _agree(reference, answer) is True


def is_false_chain(statement: Any) -> bool:
    """Whether two numbers in a chain of equals are different: `4 = 5`, `x = 2+3 = 6`."""
    return any(
        _close(left, right, value, other, 1e-2) is False
        for sides in _chains(getattr(statement, "_unsorted_args", (statement,)))
        for (left, value), (right, other) in pairwise(_numbers(sides))
    )


def _chains(relations: tuple[Any, ...]) -> list[list[Any]]:
    """The sides of equations, those together of which one begins as the one before it ends."""
    chains: list[list[Any]] = []
    for relation in relations:
        if isinstance(relation, Eq):
            left, right = relation.args
            if not (chains and chains[-1][-1] == left):
                chains.append([left])
            chains[-1].append(right)
    return chains


def _numbers(sides: list[Any]) -> list[tuple[Expr, Any]]:
    """Those of `sides` that are numbers, with their values."""
    evaluated = [side.args[0] if isinstance(side, UnevaluatedExpr) else side for side in sides]
    values = [(side, _number(side)) for side in evaluated if isinstance(side, Expr)]
    return [(side, value) for side, value in values if value is not None]


def _is_inequality(answer: Any) -> bool:
    relations = getattr(answer, "_unsorted_args", (answer,))
    return any(isinstance(relation, Relational) and not isinstance(relation, Eq)
               for relation in relations)  # fmt: skip


def _differ(reference: Any, answer: Any) -> bool:
    """Whether two things that math-verify calls equal differ in a number that it rounded away."""
    ours, theirs = list(_leaves(answer)), list(_leaves(reference))
    if len(ours) != len(theirs):
        return False
    return any(_agree(one, other) is False for one, other in zip(theirs, ours, strict=True))


def _leaves(thing: Any) -> Iterator[Any]:
    """The expressions in a set (in ascending order), tuple, interval, matrix or equation."""
    if isinstance(thing, (FiniteSet, ParsedSet)):
        for member in sorted(thing.args, key=_order):
            yield from _leaves(member)
    elif isinstance(thing, Interval):
        yield from (thing.start, thing.end)
    elif isinstance(thing, (Tuple, MatrixBase)):
        for member in thing:
            yield from _leaves(member)
    elif isinstance(thing, Eq) or type(thing).__name__ == "And":
        relations = getattr(thing, "_unsorted_args", (thing,))
        is_assignment = relations[0].args[0].is_Symbol and isinstance(relations[-1], Eq)
        yield from _leaves(relations[-1].args[-1]) if is_assignment else [thing]
    else:
        yield thing


def _order(member: Any) -> tuple[float, str]:
    number = _number(member) if isinstance(member, Expr) else None
    return (float("inf") if number is None else float(number.as_real_imag()[0]), str(member))


def _agree(one: Any, other: Any) -> bool | None:
    """Equality by value; of expressions, at sample points. None where nothing can be said.

    Outside the domain of one, the other has to be undefined too: the root of 1/n is 1 by the root
    of n, but the root of x^2 is not x.
    """
    if not (isinstance(one, Expr) and isinstance(other, Expr)) or one.has(*_UNDONE):
        return None
    if other.has(*_UNDONE) or one.free_symbols != other.free_symbols:
        return None
    if not one.free_symbols:
        if _percent(one) != _percent(other):
            return None
        return _close(one, other, _number(one), _number(other))
    symbols = sorted(one.free_symbols, key=str)
    agreed = 0
    for shift in range(len(_SAMPLES)):
        values = [(s, _SAMPLES[(shift + i) % len(_SAMPLES)]) for i, s in enumerate(symbols)]
        left, right = _number(one.subs(values)), _number(other.subs(values))
        if left is None or right is None:
            continue
        if left.is_real != right.is_real:
            return False
        if left.is_real:
            close = _close(one, other, left, right, 1e-5)
            if close is False:
                return False
            agreed += close is True
    return True if agreed > 1 else None


def _percent(number: Any) -> bool:
    return isinstance(number, Mul) and len(number.args) == 2 and number.args[1] == _PERCENT


def _without_percent(number: Any) -> Any:
    return number.args[0] if _percent(number) else number


def _number(expression: Expr) -> Any:
    """The value to 60 digits; None where there is none."""
    try:
        value = expression.evalf(_DIGITS)
        return value if value.is_number and value.is_finite else None
    except Exception:
        return None


def _close(one: Expr, other: Expr, left: Any, right: Any, tolerance: float = 1e-6) -> bool | None:
    """Whether two values are the same; `tolerance` is relative and of decimals alone."""
    if left is None or right is None:
        return None
    distance, size = abs(left - right), max(abs(left), abs(right))
    if not (one.has(Float) or other.has(Float)):
        close = bool(distance <= size * Float("1e-50"))
        return (
            one.doit() == other.doit()
            if close and is_rational(one) and is_rational(other)
            else close
        )
    if one.is_Float and other.is_Float:  # Neither rounds anything.
        tolerance = min(tolerance, 1e-12)
    return bool(distance <= size * tolerance or (size >= 1e-3 and distance <= 1e-6))
