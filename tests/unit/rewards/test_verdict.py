"""Which values are verdicts, and how failures are told."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch

from megatron_stare.rewards.verdict import as_number, failure_of, reading_of

NUMBERS = [
    (1, 1.0),
    (True, 1.0),
    (0.5, 0.5),
    (-2.0, -2.0),
    (Fraction(1, 4), 0.25),
    (Decimal("0.5"), 0.5),
    (np.bool_(True), 1.0),
    (np.float16(0.5), 0.5),
    (np.float32(0.5), 0.5),
    (np.float64(0.5), 0.5),
    (np.int64(-3), -3.0),
    (np.uint8(3), 3.0),
    (sympy.Rational(1, 2), 0.5),
    (sympy.Integer(1), 1.0),
]
SCALARS = [np.array(0.5), torch.tensor(0.5), torch.tensor(0.5, requires_grad=True)]
NONE = ["1.0", b"1", None, [1], (1,), {1: 1}, 1j, Ellipsis, sympy.oo, np.ones(2), torch.ones(1)]
NOT_FINITE = [
    *(float("nan"), float("inf"), -float("inf"), 10**400, Fraction(10**400), 10**5000),
    *(Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1e400")),
    *(np.float32("nan"), np.array(np.inf), torch.tensor(torch.nan)),
]


@pytest.mark.parametrize(("value", "number"), NUMBERS, ids=repr)
def test_whatever_is_plainly_a_finite_number_is_a_verdict(value, number: float):
    found = as_number(value)
    assert type(found) is float
    assert found == number


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_arrays_without_dimensions_are_numbers(value):
    assert as_number(value) == 0.5


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_anything_else_is_refused_by_what_it_is(value):
    with pytest.raises(TypeError, match=r"the verifier returned .*, expected a number"):
        as_number(value)


@pytest.mark.parametrize("value", NOT_FINITE, ids=lambda value: type(value).__name__)
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"the verifier returned .*, expected a finite number"):
        as_number(value)


def test_numbers_that_python_does_not_know_as_such_are_noted():
    assert reading_of(np.True_) == "returned np.True_, which is read as 1"
    assert [reading_of(value) for value in (True, 0.5, np.float32(1), Fraction(1, 2))] == [None] * 4


def test_a_failure_is_one_printable_line():
    error = ValueError("half of an emoji \ud83d,\nan escape \x1b[2J, 答え")
    assert failure_of(error) == r"ValueError: half of an emoji \ud83d,\nan escape \x1b[2J, 答え"
    failure_of(error).encode()
    assert len(failure_of(ValueError("x" * 10**6))) == 200


@pytest.mark.parametrize("reason", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_an_error_whose_message_fails_is_told_by_its_kind(reason: type[BaseException]):
    class Silent(Exception):
        def __str__(self) -> str:
            raise reason

    assert failure_of(Silent()) == "Silent: (its message cannot be made)"
