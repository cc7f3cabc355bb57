"""Standard output on a disk that is full: it loses lines, and the run goes on."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OutputStream:
    """`sys.stdout`, whatever it is at the moment, without the errors of a full disk.

    Characters that its encoding has not, as of a locale before Unicode, are written as escapes.
    """

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        if sys.stdout is not None:
            encoding = sys.stdout.encoding or "utf-8"
            with _lines_may_be_lost():
                sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Have what was written reach the system, if it takes it."""
        if sys.stdout is not None:
            with _lines_may_be_lost():
                sys.stdout.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


def give_up_unwritten_output() -> None:
    """Drop what standard output does not take: a run that is done would fail for it at the end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _lines_may_be_lost() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:  # Nobody reads on: that ends a command.
            raise
