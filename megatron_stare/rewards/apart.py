"""Children of a worker, one for each verification: `reward.isolation: process`.

A child has no connection to the trainer. It answers into a pipe that is its alone, and is killed
once it has, with whatever it started. So what runs in it (a verifier may execute what a policy
wrote) can spoil its own verdict, and no other.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_MAX_BYTES = 1 << 16


def children_of(process: int) -> set[int]:
    """Of every thread of a process; OSError where it is gone, or the kernel does not say."""
    tasks = Path(f"/proc/{process}/task")
    texts = [(tasks / task / "children").read_text() for task in os.listdir(tasks)]
    return {int(pid) for text in texts for pid in text.split()}


class Lost(Exception):
    """A child ended without an answer, with this exit code, negative for a signal."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Children:
    """Runs functions one after the other, each in a child that begins as a copy of this process.

    This process takes in what its children leave behind, and hides its memory and its files from
    them. OSError where the system cannot do that.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_DUMPABLE, 0)):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Ignored, no exit code would be known.
        self._kept = children_of(os.getpid())
        """Of the verifier's import."""

    def run(self, function: Callable[[], Any]) -> Any:
        """What a function returns in a child, by way of JSON.

        Raises:
            Lost: the child died.
            ValueError: what it wrote is no JSON.
            OSError: there can be no child.
        """
        reading, writing = os.pipe()
        try:
            child = os.fork()
            if child == 0:
                _answer(function, writing)
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            line = _read_line(reading, child)
        finally:
            os.close(reading)
            exit_code = self._end(child)
        if line is None:
            raise Lost(exit_code)
        try:
            return json.loads(line)
        except RecursionError as error:
            raise ValueError("too deep") from error

    def _end(self, child: int) -> int:
        """Kill a child, then what falls to this process of what it started; its exit code."""
        os.kill(child, signal.SIGKILL)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        while left := children_of(os.getpid()) - self._kept:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)
        return exit_code


def _answer(function: Callable[[], Any], writing: int) -> NoReturn:
    exit_code = 1
    try:
        answer = json.dumps(function()).encode() + b"\n"
        with open(writing, "wb") as pipe:
            pipe.write(answer)
        exit_code = 0
    finally:
        os._exit(exit_code)


def _read_line(reading: int, child: int) -> bytes | None:
    """What a child writes, to the end of a line or its own; None if that is nothing."""
    death = os.pidfd_open(child)
    poll = select.poll()
    poll.register(death, select.POLLIN)
    poll.register(reading, select.POLLIN)
    content = b""
    try:
        while b"\n" not in content and len(content) < _MAX_BYTES:
            ready = {descriptor for descriptor, _ in poll.poll()}
            more = os.read(reading, _MAX_BYTES) if reading in ready else b""
            if not more and death in ready:  # What it started may hold the pipe open.
                break
            if not more:
                poll.unregister(reading)  # It has closed the pipe, and goes on.
            content += more
    finally:
        os.close(death)
    return content.partition(b"\n")[0] if content else None
