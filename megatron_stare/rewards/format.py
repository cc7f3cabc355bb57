"""Whether a response has the form that is asked for, and saying so when none ever has."""

from __future__ import annotations

import re
from collections.abc import Callable

FIRST_STEPS = 3

_CLOSING_TAG = re.compile(r"</([A-Za-z][\w-]*)>")


def matches_format(pattern: re.Pattern[str], response: str, prefill: str | None) -> bool:
    """Whether the pattern matches the whole response, behind what the prompt has begun it with.

    Args:
        prefill: that beginning, such as `<think>` and a newline. None where the prompt is not
            known: a tag that is closed before it is opened was opened there.

    >>> matches_format(re.compile("<think>.*</think>.*"), "Two.</think> 2", None)
    True
    >>> matches_format(re.compile("<think>.*</think>.*"), "Two.</think> 2", "")
    False
    """
    beginning = _unopened(response) if prefill is None else prefill
    return pattern.fullmatch(beginning + response) is not None


def _unopened(response: str) -> str:
    closing = _CLOSING_TAG.search(response)
    if closing is None or f"<{closing[1]}" in response[: closing.start()]:
        return ""
    return f"<{closing[1]}>"


class FormatWatch:
    """Says once that a pattern has matched no response of the first steps."""

    def __init__(self, pattern: str | None, report: Callable[[str], None]) -> None:
        self._pattern = pattern
        self._report = report
        self._num_steps = self._num_judged = self._num_matching = 0

    def see(self, *, num_judged: int, num_matching: int) -> None:
        """Count responses that have a verdict, and those of them that the pattern matched."""
        self._num_judged += num_judged
        self._num_matching += num_matching

    def end_step(self, *, is_last: bool) -> None:
        """A step is over; `is_last` where no other follows."""
        self._num_steps += 1
        is_due = self._num_steps == FIRST_STEPS or (is_last and self._num_steps < FIRST_STEPS)
        if is_due and self._pattern is not None and self._num_judged and not self._num_matching:
            self._report(
                f"reward.format_pattern={self._pattern!r} matched none of the {self._num_judged} "
                f"responses of the first {self._num_steps} steps: read some, and see "
                "reward.format_sees"
            )
