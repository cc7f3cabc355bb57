"""Tools as users write them."""

from __future__ import annotations

import time


def shout(text: str, times: int = 1) -> str:
    """Repeats a text in capitals."""
    return text.upper() * times


def slow(seconds: float) -> str:
    """Sleeps."""
    time.sleep(seconds)
    return "awake"


def broken(kind: str):
    """Raises."""
    raise {"os": ConnectionError, "value": ValueError, "exit": SystemExit}[kind]("no such place")


def table() -> dict:
    """Answers with a table."""
    return {"a": 1, "ü": [None]}


class Counter:
    """Counts for each sample."""

    def __init__(self):
        self.total = 0

    def call(self, by: int = 1) -> str:
        """Adds to the count, and tells it."""
        if by < 0:
            raise ValueError("only up")
        self.total += by
        return str(self.total)


class WithoutCall:
    """No tool."""


NUMBER = 3
