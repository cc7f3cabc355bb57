"""The one exception a user can fix: the command line prints it without a traceback and exits 2."""

from __future__ import annotations

import re

_NOT_FOR_TERMINALS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Controls but for tab and newline, what reverses text, and halves of characters."""


def without_surrogates(text: str) -> str:
    """With question marks for halves of surrogate pairs, which no file or terminal takes."""
    return text.encode(errors="replace").decode()


def printable(text: str) -> str:
    r"""The text with what a terminal would obey, or could not show, written as escapes.

    >>> printable("a field named \x1b[31m")
    'a field named \\x1b[31m'
    """
    return _NOT_FOR_TERMINALS.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


class UserError(Exception):
    """Bad input. The message names the key or file, the value found, and what was expected.

    >>> str(UserError("--gpus=0: expected 1 or more"))
    '--gpus=0: expected 1 or more'
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Stopped(Exception):
    """A run was asked to stop, and everything it needs to go on is saved."""


class ReportedUserError(UserError):
    """A `UserError` that another rank prints."""
