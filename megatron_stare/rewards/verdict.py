"""What one verification found: which answers of a verifier are numbers, and how a failure is told.

A verifier is foreign code, and what it says may be made of what a policy wrote: a message is kept
as one line of printable text.
"""

from __future__ import annotations

import math
import numbers
import subprocess
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

_MESSAGE_CHARACTERS = 200


Ending = Literal["verdict", "raised", "deadline", "lost"]
"""How a verification ends, and whose doing it is.

verdict   with a number
raised    the verifier raised, or returned no number: it can make nothing of this response
deadline  it took longer than it may
lost      its process died, ran out of memory or could not be started, or the system or a server
          refused it something (OSError): not the response's doing
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verification found.

    `failure` is why there is no number, None with one; `value` is 0 and `matches_format` False
    then.
    """

    value: float
    matches_format: bool
    failure: str | None
    seconds: float
    ending: Ending = "verdict"


def as_number(value: Any, of: str = "the verifier") -> float:
    """What foreign code returned, as a float.

    A number is whatever Python calls one (int, float, bool, Fraction, Decimal, numpy's), and the
    scalar of an array library: `numpy.True_`, `torch.tensor(0.5)`.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or beyond floats.
    """
    number = value.item() if _is_scalar(value) else value
    if not isinstance(number, numbers.Real | Decimal):
        raise TypeError(f"{of} returned {_shown(value)}, expected a number")
    try:
        found = float(number)
    except (OverflowError, ValueError):  # Of an int of 5,000 digits; of Decimal("sNaN").
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{of} returned {_shown(value)}, expected a finite number")
    return found


def reading_of(value: Any) -> str | None:
    """How a number is read that is none to Python, such as `numpy.True_`; None for any other."""
    if isinstance(value, numbers.Real):
        return None
    return one_line(f"returned {_shown(value)}, which is read as {as_number(value):g}")


def ending_of(error: BaseException) -> Ending:
    """Of a verification that raised it."""
    if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
        return "deadline"  # The verifier has a time limit of its own.
    return "lost" if isinstance(error, OSError) else "raised"


def failure_of(error: BaseException) -> str:
    """The kind of an error and its message, in one line."""
    try:
        message = str(error)
    except BaseException:  # It is foreign code too: it may ask to exit.
        message = "(its message cannot be made)"
    return one_line(f"{type(error).__name__}: {message}")


def one_line(text: str) -> str:
    """The beginning of a text, with escapes for what is not printable: line ends, surrogates."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text[:_MESSAGE_CHARACTERS]
    )


def _is_scalar(value: Any) -> bool:
    """Whether it is an array of no dimensions."""
    return getattr(value, "shape", None) == () and hasattr(value, "item")


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except BaseException:  # An int of 5,000 digits; an object that cannot be shown, or exits.
        return f"a value of type {type(value).__name__}"
