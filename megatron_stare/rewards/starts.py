"""Whether another worker is to be started, where starts fail."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

_PAUSE_S = 1.0
_MAX_FAILURES = 2


@dataclass(slots=True)
class Starts:
    """Starts that fail one after the other: the next is a moment later, and the second is the last.

    Those that were under way when one failed count as one with it: what a machine lacks, it lacks
    for all of them.
    """

    num_failures: int = 0
    cause: str = ""
    last_failure: float = -math.inf

    def fail(self, cause: str, since: float) -> None:
        """A start failed that began at `since`, by `time.monotonic`."""
        if since >= self.last_failure:
            self.num_failures += 1
            self.cause, self.last_failure = cause, time.monotonic()

    def succeed(self) -> None:
        """A worker is ready: what was lacking is there."""
        self.num_failures = 0

    @property
    def are_given_up(self) -> bool:
        """Whether there are to be no more."""
        return self.num_failures >= _MAX_FAILURES

    @property
    def pause_left_s(self) -> float:
        """Before the next; 0 where it may begin, infinity where there is none."""
        if self.are_given_up:
            return math.inf
        if self.num_failures == 0:
            return 0.0
        return max(self.last_failure + _PAUSE_S - time.monotonic(), 0.0)
