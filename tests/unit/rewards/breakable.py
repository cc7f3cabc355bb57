"""A verifier that cannot be imported while a file says so; the environment names the file.

In the file is how many imports are to fail, and how.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STATE = "BREAKABLE_STATE"
HOW = {
    "raise": lambda: 1 / 0,
    "exit": lambda: os._exit(5),
    "linger": lambda: time.sleep(1000),
}


def judge(response: str, answer: str) -> float:
    """Of "break N HOW", end the process, and let N imports fail."""
    if response.startswith("break"):
        _tell(Path(os.environ[STATE]), response)
        os._exit(1)
    return float(response)


def _tell(state: Path, text: str) -> None:
    """At once: another process may be reading."""
    whole = state.with_name(f"{state.name}.{os.getpid()}")
    whole.write_text(text)
    whole.replace(state)


def _fail_if_told() -> None:
    state = Path(os.environ.get(STATE, "unbroken"))
    if not state.exists():
        return
    _, count, how = state.read_text().split()
    if int(count) > 0:
        _tell(state, f"break {int(count) - 1} {how}")
        HOW[how]()


_fail_if_told()
