"""The verifier of tiny_addition: the right sum, and nothing behind it.

What a verifier does not look at, a policy that is paid for surprise will fill. `math` reads the
last box and ignores what follows it, so text behind the box would cost nothing (docs/stare.md,
"When entropy is held by junk").
"""

from __future__ import annotations

import re

_ENDS_IN_BOX = re.compile(r"\\boxed\{(\d+)\}\Z")


def sum_reward(response: str, answer: str) -> float:
    """1.0 where the response ends in its only box, and that holds the answer's digits; else 0.0.

    >>> sum_reward(r"7 plus 9 makes 16 so \\boxed{16}", "16")
    1.0
    >>> sum_reward(r"7 plus 9 makes 16 so \\boxed{16}}}", "16")
    0.0
    """
    ends = _ENDS_IN_BOX.search(response)
    return float(ends is not None and ends[1] == answer and response.count("\\boxed{") == 1)
