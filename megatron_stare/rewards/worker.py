"""The process in which verifications run: `python -m megatron_stare.rewards.worker FD`.

Besides the verifier it imports little but the standard library, so that one starts in a fraction of
a second after another was killed. File descriptor FD is its connection to the pool; standard input
is a pipe that nothing is ever written to, whose other end dies with the trainer.
"""

from __future__ import annotations

import fcntl
import importlib
import math
import numbers
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from megatron_stare import stop_signals

EXIT_MEMORY = 86
"""Exit code of a process whose verification ran out of memory."""

Verifier = Callable[[str, str], object]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told first: how to judge, and within what memory.

    function        `package.module:function(response, answer)`
    format_pattern  regular expression for the whole response (`.` matches newlines), or None
    memory_bytes    that a verification may add to the loaded process
    import_path     of the trainer; the current folder comes before it
    """

    function: str
    format_pattern: str | None
    memory_bytes: int
    import_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verification found; `value` is 0 and `matches_format` False with a `failure`."""

    value: float
    matches_format: bool
    failure: str | None
    seconds: float


def main(connection: Connection) -> None:
    """Serve batches of (response, answer), one verdict per item, until the pool hangs up."""
    stop_signals.ignore()  # The trainer heeds them: it finishes its step, and needs the verdicts.
    _die_with_the_trainer()
    setup: Setup = connection.recv()
    try:
        verifier = _import_function(setup)
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    _limit_memory(setup.memory_bytes)
    connection.send(None)
    pattern = re.compile(setup.format_pattern, re.DOTALL) if setup.format_pattern else None
    while True:
        for response, answer in connection.recv():
            connection.send(judge(verifier, pattern, response, answer))


def judge(
    verifier: Verifier, pattern: re.Pattern[str] | None, response: str, answer: str
) -> Verdict:
    """Run one verification; whatever it raises is its verdict's failure."""
    start = time.perf_counter()
    value, matches, failure = 0.0, False, None
    try:
        value = _finite_number(verifier(response, answer))
        matches = pattern is not None and pattern.fullmatch(response) is not None
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except BaseException as error:  # A verifier is foreign code: even SystemExit is its failure.
        value, failure = 0.0, f"{type(error).__name__}: {error}"[:200]
    return Verdict(value, matches, failure, time.perf_counter() - start)


def _finite_number(value: Any) -> float:
    if not isinstance(value, numbers.Real):
        raise TypeError(f"the verifier returned {value!r:.60}, expected a number")
    if not math.isfinite(value):
        raise ValueError(f"the verifier returned {value}, expected a finite number")
    return float(value)


def _import_function(setup: Setup) -> Verifier:
    sys.path.extend(path for path in setup.import_path if path not in sys.path)
    module, _, name = setup.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{setup.function} is a {type(function).__name__}, expected a function")
    return function


def _die_with_the_trainer() -> None:
    """Have the kernel end this process group when the pipe at standard input closes.

    Unlike a thread that watches, it works while C code holds the interpreter; unlike
    PR_SET_PDEATHSIG it outlives the thread that started the process.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _limit_memory(added_bytes: int) -> None:
    """Cap the address space at its present size plus `added_bytes`; write no core dumps."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + added_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    # Run under the module's own name: what is pickled here must be found there.
    from megatron_stare.rewards import worker

    worker.main(Connection(int(sys.argv[1])))
