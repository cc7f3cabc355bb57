"""The process in which verifications run: `python -m megatron_stare.rewards.worker FD`.

Besides the verifier it imports little but the standard library, so that one starts in a fraction of
a second after another was killed. File descriptor FD is its connection to the pool (`channel`);
standard input is a pipe that nothing is ever written to, whose other end dies with the trainer.

    pool    Setup
    worker  ["ready", digest of the code]                      or ["error", why it cannot import]
    pool    [(id, response, answer), ...]                      a chunk
    worker  ["begun"]                                          it has read the chunk
    worker  ["verdict", id, value, matches format, failure, seconds, ending, leaves something]
    worker  ["note", what the user should know]

Only this process speaks: a verifier may fork, and what it forked leaves without a word.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Literal

from megatron_stare.rewards.apart import Children, Lost
from megatron_stare.rewards.child import (
    Connection,
    die_with_the_trainer,
    find_as_the_trainer,
    imported,
)
from megatron_stare.rewards.code import code_digest
from megatron_stare.rewards.format import matches_format
from megatron_stare.rewards.verdict import (
    Ending,
    Verdict,
    as_number,
    ending_of,
    failure_of,
    reading_of,
)
from megatron_stare.system import stop_signals
from megatron_stare.system.memory_limit import limit_memory

EXIT_MEMORY = 86
"""Exit code of a process whose verification ran out of memory."""
BROKEN_CONNECTION = "broke the connection of its process"
"""Of a verification: what came in its name was no verdict."""

Verifier = Callable[[str, str], object]
Found = tuple[Verdict, list[str], bool]
"""A verdict, what the user should know of the verifier, whether something is left running."""
Judging = Callable[[str, str], Found]
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told first: how to judge, and within what memory.

    function        `package.module:function(response, answer)`
    format_pattern  regular expression for the whole response (`.` matches newlines), or None
    memory_bytes    that a verification may add to the loaded process
    import_path     of the trainer; the current folder comes before it
    prefill         what the pattern sees in front of every response
    isolation       whether verifications share the worker, or have a process each
    """

    function: str
    format_pattern: str | None
    memory_bytes: int
    import_path: tuple[str, ...]
    prefill: str = ""
    isolation: Literal["worker", "process"] = "worker"


def cause_of_death(exit_code: int, memory_bytes: int) -> str:
    """What to say of a process that ended in a verification within so much memory."""
    if exit_code == EXIT_MEMORY:
        return f"memory limit of {memory_bytes / 2**30:g} GiB"
    return f"process died (exit code {exit_code})"


def main(descriptor: int) -> None:
    """Serve chunks of (id, response, answer), one verdict per item, until the pool hangs up."""
    stop_signals.ignore()  # The trainer heeds them: it finishes its step, and needs the verdicts.
    die_with_the_trainer()
    connection = Connection(descriptor)
    setup: Setup = connection.receive()
    try:
        verifier = _import_function(setup)
        limit_memory(setup.memory_bytes)
        judging = _JUDGING[setup.isolation](verifier, setup)
    except BaseException as error:  # Its module is foreign code, too.
        connection.send("error", failure_of(error))
        return
    limit_memory(setup.memory_bytes)
    connection.send("ready", code_digest(setup.function.partition(":")[0]))
    while True:
        chunk = _receive_chunk(connection)
        connection.send("begun")
        for number, response, answer in chunk:
            verdict, notes, leaves_something = judging(response, answer)
            for note in notes:
                connection.send("note", note)
            connection.send("verdict", number, *astuple(verdict), leaves_something)


def _receive_chunk(connection: Connection) -> list[tuple[str, str, str]]:
    """The next chunk; where it does not fit into memory the process ends."""
    try:
        return connection.receive()
    except MemoryError:
        os._exit(EXIT_MEMORY)


def _judging_here(verifier: Verifier, setup: Setup) -> Judging:
    """In this process, whatever is left running in it."""
    pattern = re.compile(setup.format_pattern, re.DOTALL) if setup.format_pattern else None
    num_threads = len(sys._current_frames())
    noted: set[type] = set()

    def found(response: str, answer: str) -> Found:
        notes: list[str] = []

        def note(value: Any) -> None:
            if type(value) not in noted and (reading := reading_of(value)) is not None:
                notes.append(reading)
            noted.add(type(value))

        verdict = judge(verifier, pattern, response, answer, note, setup.prefill)
        return verdict, notes, _is_running_more_than(num_threads)

    return found


def _judging_apart(verifier: Verifier, setup: Setup) -> Judging:
    """In a child for each response, of which nothing is left."""
    judging, children = _judging_here(verifier, setup), Children()
    has_noted = False

    def found(response: str, answer: str) -> Found:
        nonlocal has_noted
        start = time.perf_counter()

        def answered() -> Any:
            verdict, notes, _ = judging(response, answer)
            return astuple(verdict), notes

        try:
            fields, notes = children.run(answered)
            verdict, notes = Verdict(*fields), [] if has_noted else [*map(str, notes)]
        except Lost as lost:
            failure = cause_of_death(lost.exit_code, setup.memory_bytes)
        except OSError as error:
            failure = failure_of(error)
        except (ValueError, TypeError):
            failure = BROKEN_CONNECTION
        else:
            has_noted = has_noted or bool(notes)
            return verdict, notes, False
        seconds = time.perf_counter() - start
        return Verdict(0.0, False, failure, seconds, "lost"), [], False

    return found


_JUDGING = {"worker": _judging_here, "process": _judging_apart}


def judge(
    verifier: Verifier,
    pattern: re.Pattern[str] | None,
    response: str,
    answer: str,
    note: Callable[[Any], None] = lambda _: None,
    prefill: str | None = None,
) -> Verdict:
    """Run one verification; whatever it raises is its verdict's failure.

    Args:
        note: is given what the verifier returned, if it is a number.
        prefill: what the prompt has begun the response with; None where that is not known.
    """
    start = time.perf_counter()
    value, matches, failure = 0.0, False, None
    ending: Ending = "verdict"
    try:
        found = _in_this_process_only(verifier, response, answer)
        value = as_number(found)
        note(found)
        matches = pattern is not None and matches_format(pattern, response, prefill)
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except BaseException as error:  # A verifier is foreign code: even SystemExit is its failure.
        value, failure, ending = 0.0, failure_of(error), ending_of(error)
    for timer in _TIMERS:  # One that it left would go off in another's verification.
        signal.setitimer(timer, 0)
    return Verdict(value, matches, failure, time.perf_counter() - start, ending)


def _in_this_process_only(verifier: Verifier, response: str, answer: str) -> object:
    """What the verifier returns or raises; in a process that it forked, neither comes back."""
    process, code = os.getpid(), 0
    try:
        return verifier(response, answer)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except BaseException:
        code = 1
        raise
    finally:
        if os.getpid() != process:
            os._exit(code & 0xFF)


def _is_running_more_than(num_threads: int) -> bool:
    """Whether there are more threads than that, or child processes."""
    if len(sys._current_frames()) > num_threads:
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _import_function(setup: Setup) -> Verifier:
    find_as_the_trainer(setup.import_path)
    function = imported(setup.function)
    if not callable(function):
        raise TypeError(f"{setup.function} is a {type(function).__name__}, expected a function")
    return function


if __name__ == "__main__":
    # Run under the module's own name: what is pickled here must be found there.
    from megatron_stare.rewards import worker

    worker.main(int(sys.argv[1]))
