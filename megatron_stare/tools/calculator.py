"""The tool `calculator`: exact arithmetic of rational numbers.

An expression is parsed, and never run: nothing but the operations of `_OPERATORS` and `_FUNCTIONS`
is done, on numbers of at most `_MAX_BITS` bits.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

_MAX_CHARACTERS = 1000
_MAX_BITS = 10_000
_MAX_ARGUMENT = 10_000
_MAX_EXPONENT_CHARACTERS = 5
_MAX_DECIMALS = 60


def calculate(expression: str) -> str:
    """Calculates with whole numbers, decimals and fractions, exactly.

    Args:
        expression: such as 12*(3+4)**2/7. Operators are + - * / // % **; functions are abs, min,
            max, floor, ceil, round, gcd, lcm, factorial, comb and sqrt.
    """
    if len(expression) > _MAX_CHARACTERS:
        raise ValueError(f"the expression has more than {_MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body, expression.strip())
    except SyntaxError as error:
        raise ValueError(f"{error.msg}: {expression}") from None
    except (RecursionError, MemoryError):
        raise ValueError("the expression is nested too deep") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    return _written(value)


def _value(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return _within(Fraction(number))
        case ast.Constant(value=float()):
            return _within(_decimal(ast.get_source_segment(text, node) or ""))
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, text)
        case ast.UnaryOp(ast.UAdd(), operand):
            return _value(operand, text)
        case ast.BinOp(left, symbol, right) if type(symbol) in _OPERATORS:
            return _within(_OPERATORS[type(symbol)](_value(left, text), _value(right, text)))
        case ast.Call(ast.Name(name), arguments, []) if name in _FUNCTIONS:
            values = [_value(argument, text) for argument in arguments]
            try:
                return _within(Fraction(_FUNCTIONS[name](*values)))
            except TypeError:
                raise ValueError(f"{name} takes other arguments than {len(values)}") from None
        case ast.BinOp(_, ast.BitXor(), _):
            raise ValueError("^ is no operator here: a power is written **")
    found = ast.get_source_segment(text, node) or text
    raise ValueError(
        f"expected numbers, + - * / // % ** and {', '.join(_FUNCTIONS)}; found {found}"
    )


def _decimal(literal: str) -> Fraction:
    """What is written, and not the float next to it."""
    exponent = literal.lower().partition("e")[2]
    if len(exponent) > _MAX_EXPONENT_CHARACTERS:
        raise ValueError(f"a number of more than {_MAX_BITS} bits: {literal}")
    return Fraction(literal)


def _within(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise ValueError(f"a number of more than {_MAX_BITS} bits")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    power = _whole(exponent)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(power) > 2 * _MAX_BITS and abs(base) != 1:
        raise ValueError(f"a number of more than {_MAX_BITS} bits")
    return base**power


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise ValueError(f"expected a whole number, found {_written(value)}")
    return value.numerator


def _root(value: Fraction) -> Fraction:
    """Exact where there is one, else to 50 digits."""
    if value < 0:
        raise ValueError(f"no square root of {_written(value)}")
    numerator, denominator = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if Fraction(numerator, denominator) ** 2 == value:
        return Fraction(numerator, denominator)
    scale = 10**50
    return Fraction(math.isqrt(value.numerator * scale**2 // value.denominator), scale)


def _rounded(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    places = _whole(digits)
    if abs(places) > _MAX_DECIMALS:
        raise ValueError(f"expected at most {_MAX_DECIMALS} digits")
    return Fraction(round(value, places))


def _written(value: Fraction) -> str:
    """A decimal where there is a short one, else a fraction and what it is about."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, _MAX_DECIMALS + 1):
        if 10**places % value.denominator == 0:
            return f"{value:.{places}f}"
    return f"{value.numerator}/{value.denominator} (about {value:.15g})"


def _of_whole(function: Callable[..., int]) -> Callable[..., int]:
    """A function of whole numbers that are not large."""

    def call(*values: Fraction) -> int:
        numbers = [_whole(value) for value in values]
        if any(abs(number) > _MAX_ARGUMENT for number in numbers) and function in _STEEP:
            raise ValueError(f"expected numbers of at most {_MAX_ARGUMENT}")
        return function(*numbers)

    return call


_STEEP = (math.factorial, math.comb)
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": _rounded,
    "gcd": _of_whole(math.gcd),
    "lcm": _of_whole(math.lcm),
    "factorial": _of_whole(math.factorial),
    "comb": _of_whole(math.comb),
    "sqrt": _root,
}
