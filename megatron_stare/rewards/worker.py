"""The process in which verifications run: `python -m megatron_stare.rewards.worker FD`.

Besides the verifier it imports little but the standard library, so that one starts in a fraction of
a second after another was killed. File descriptor FD is its connection to the pool (`channel`);
standard input is a pipe that nothing is ever written to, whose other end dies with the trainer.

    pool    Setup
    worker  ["ready", digest of the code]                      or ["error", why it cannot import]
    pool    [(id, response, answer), ...]                      a chunk
    worker  ["begun"]                                          it has read the chunk
    worker  ["verdict", id, value, matches format, failure, seconds, leaves something running]
    worker  ["note", what the user should know]

Only this process speaks: a verifier may fork, and what it forked leaves without a word.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pickle
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_stare import stop_signals
from megatron_stare.memory_limit import limit_memory
from megatron_stare.rewards.channel import LENGTH
from megatron_stare.rewards.code import code_digest
from megatron_stare.rewards.format import matches_format
from megatron_stare.rewards.verdict import Verdict, as_number, failure_of, reading_of

EXIT_MEMORY = 86
"""Exit code of a process whose verification ran out of memory."""

Verifier = Callable[[str, str], object]
_BUFFER_BYTES = 1 << 18
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told first: how to judge, and within what memory.

    function        `package.module:function(response, answer)`
    format_pattern  regular expression for the whole response (`.` matches newlines), or None
    memory_bytes    that a verification may add to the loaded process
    import_path     of the trainer; the current folder comes before it
    prefill         what the pattern sees in front of every response
    """

    function: str
    format_pattern: str | None
    memory_bytes: int
    import_path: tuple[str, ...]
    prefill: str = ""


class _Connection:
    """To the pool, of this process alone."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._reader = self._socket.makefile("rb", buffering=_BUFFER_BYTES)
        os.register_at_fork(after_in_child=lambda: os.close(self._socket.detach()))

    def send(self, *message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """The next message; the process ends where the pool has hung up."""
        prefix = self._reader.read(LENGTH.size)
        if not prefix:
            sys.exit()
        return pickle.loads(self._reader.read(*LENGTH.unpack(prefix)))


def main(descriptor: int) -> None:
    """Serve chunks of (id, response, answer), one verdict per item, until the pool hangs up."""
    stop_signals.ignore()  # The trainer heeds them: it finishes its step, and needs the verdicts.
    _die_with_the_trainer()
    connection = _Connection(descriptor)
    setup: Setup = connection.receive()
    try:
        verifier = _import_function(setup)
    except BaseException as error:  # Its module is foreign code, too.
        connection.send("error", failure_of(error))
        return
    limit_memory(setup.memory_bytes)
    connection.send("ready", code_digest(setup.function.partition(":")[0]))
    _serve(connection, verifier, setup)


def _serve(connection: _Connection, verifier: Verifier, setup: Setup) -> None:
    pattern = re.compile(setup.format_pattern, re.DOTALL) if setup.format_pattern else None
    noted: set[type] = set()

    def note(value: Any) -> None:
        if type(value) not in noted and (reading := reading_of(value)) is not None:
            connection.send("note", reading)
        noted.add(type(value))

    num_threads = len(sys._current_frames())
    while True:
        chunk = _receive_chunk(connection)
        connection.send("begun")
        for number, response, answer in chunk:
            found = judge(verifier, pattern, response, answer, note, setup.prefill)
            fields = found.value, found.matches_format, found.failure, found.seconds
            connection.send("verdict", number, *fields, _is_running_more_than(num_threads))


def _receive_chunk(connection: _Connection) -> list[tuple[str, str, str]]:
    """The next chunk; where it does not fit into memory the process ends."""
    try:
        return connection.receive()
    except MemoryError:
        os._exit(EXIT_MEMORY)


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
    try:
        found = _in_this_process_only(verifier, response, answer)
        value = as_number(found)
        note(found)
        matches = pattern is not None and matches_format(pattern, response, prefill)
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except BaseException as error:  # A verifier is foreign code: even SystemExit is its failure.
        value, failure = 0.0, failure_of(error)
    for timer in _TIMERS:  # One that it left would go off in another's verification.
        signal.setitimer(timer, 0)
    return Verdict(value, matches, failure, time.perf_counter() - start)


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
    sys.path[:] = dict.fromkeys([os.getcwd(), *sys.path, *setup.import_path])
    module, _, name = setup.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{setup.function} is a {type(function).__name__}, expected a function")
    return function


def _die_with_the_trainer() -> None:
    """Have the kernel kill this process group when the pipe at standard input closes.

    Unlike a thread that watches, it works while C code holds the interpreter; unlike
    PR_SET_PDEATHSIG it outlives the thread that started the process; and SIGKILL, unlike the usual
    SIGIO, ends a process that is stopped.
    """
    watched = os.dup(0)  # A verifier may close standard input, or read it.
    fcntl.fcntl(watched, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(watched, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(watched, fcntl.F_SETFL, fcntl.fcntl(watched, fcntl.F_GETFL) | os.O_ASYNC)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)


if __name__ == "__main__":
    # Run under the module's own name: what is pickled here must be found there.
    from megatron_stare.rewards import worker

    worker.main(int(sys.argv[1]))
