"""Runs a model's code in templates, a few at a time; for one that is lost it starts another."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from megatron_stare.tools.sandbox.confine import Limits
from megatron_stare.tools.sandbox.isolation import (
    FOLDER,
    Interpreter,
    command,
    environment,
    interpreter,
    missing,
)

Ending = Literal["done", "raised", "time", "cpu", "output", "files", "died"]
"""How a run ended: by itself, by what it raised, at a limit, or by a signal of its own making."""

_START_S = 120.0
_GRACE_S = 10.0
_ATTEMPTS = 2
_KILLED = "it was killed from outside: the machine may have run out of memory"


class SandboxFailure(Exception):
    """Code could not be run, for a reason that is not the code's."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of some code.

    output    what it printed, standard error too
    signal    that it died of, with ending `died`
    seconds   on the clock
    """

    output: str
    ending: Ending
    signal: int
    seconds: float


class Sandbox:
    """Runs code behind walls, for any number of threads.

    A run whose template is lost is tried once more in another. Use it as a context manager, or
    `close()` it.

    Args:
        walls: bubblewrap, landlock or none.
        workers: runs at a time.
        wait_s: that a run may wait for others to end.

    Raises:
        ValueError: a package is not installed.
    """

    def __init__(
        self, walls: str, packages: Sequence[str], limits: Limits, *, workers: int, wait_s: float
    ) -> None:
        self._parts = (walls, interpreter(packages), tuple(packages), limits)
        self._wait_s = wait_s
        self._slots: queue.Queue[_Template | None] = queue.Queue()
        for _ in range(workers):
            self._slots.put(None)
        self._lock = threading.Lock()
        self._templates: set[_Template] = set()
        self._is_closed = False

    def run(self, code: str, deadline_s: float) -> Run:
        """Run code as `python main.py` would, for so many seconds at most.

        Raises:
            SandboxFailure: it was not run, or not to an end of its own.
        """
        try:
            template = self._slots.get(timeout=self._wait_s)
        except queue.Empty:
            raise SandboxFailure(f"no sandbox was free within {self._wait_s:g} s") from None
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    template = template or self._start()
                    return template.run(code, deadline_s)
                except SandboxFailure:
                    if template is not None:
                        self._end(template)
                        template = None
                    if attempt == _ATTEMPTS - 1 or self._is_closed:
                        raise
            raise AssertionError("unreachable")
        finally:
            self._slots.put(template)

    def close(self) -> None:
        """End all templates, and with them what runs."""
        self._is_closed = True
        for template in list(self._templates):
            self._end(template)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> _Template:
        template = _Template(*self._parts)
        with self._lock:
            self._templates.add(template)
            is_late = self._is_closed
        if is_late:
            self._end(template)
            raise SandboxFailure("the sandbox is closed")
        return template

    def _end(self, template: _Template) -> None:
        with self._lock:
            is_ended = template not in self._templates  # By a thread that was faster.
            self._templates.discard(template)
        if not is_ended:
            template.close()


def trouble_with(walls: str) -> str | None:
    """Why such walls do not work here; None where a run behind them does.

    Nothing of a model's is run for it.
    """
    if reason := missing(walls):
        return reason
    limits = Limits(cpu_s=10, memory_bytes=1 << 26, file_bytes=1 << 20, output_bytes=1 << 10)
    try:
        with Sandbox(walls, (), limits, workers=1, wait_s=1) as sandbox:
            run = sandbox.run("print(1)", 10.0)
    except SandboxFailure as error:
        return str(error)
    return None if run.output == "1\n" else f"a run that prints 1 ended as {run}"


class _Template:
    """The trainer's end of a template.

    Raises:
        SandboxFailure: it does not start.
    """

    def __init__(
        self, walls: str, python: Interpreter, packages: Sequence[str], limits: Limits
    ) -> None:
        self._in_use = threading.Lock()
        self._folder = None if walls == "bubblewrap" else tempfile.mkdtemp(prefix="run-of-a-model-")
        self._socket, theirs = socket.socketpair()
        self._received = b""
        try:
            self._process = subprocess.Popen(
                command(walls, python.readable, limits.file_bytes),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env=environment(),
                start_new_session=True,
            )
        except OSError as error:
            self._forget()
            raise SandboxFailure(f"no process can be started: {error}") from None
        finally:
            theirs.close()
        setup = {
            "walls": walls,
            "folder": self._folder or FOLDER,
            "readable": [str(path) for path in python.readable],
            "import_path": python.import_path,
            "packages": packages,
            "limits": asdict(limits),
        }
        try:
            answer = self._ask(setup, _START_S)
            if "error" in answer:
                raise SandboxFailure(f"cannot start: {answer['error']}")
        except SandboxFailure:
            self.close()
            raise

    def run(self, code: str, deadline_s: float) -> Run:
        with self._in_use:
            answer = self._ask({"code": code, "deadline_s": deadline_s}, deadline_s + _GRACE_S)
        if answer["ending"] == "killed":
            raise SandboxFailure(_KILLED)
        return Run(**answer)

    def close(self) -> None:
        """End all its processes, and with them a run, whose thread then lets go of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._in_use:
            self._process.communicate()
            self._forget()

    def _forget(self) -> None:
        self._socket.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, message: dict[str, Any], patience_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        try:
            self._socket.settimeout(patience_s)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            while b"\n" not in self._received:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                more = self._socket.recv(1 << 16)
                if not more:
                    raise SandboxFailure(f"its process ended: {self._last_words()}")
                self._received += more
        except TimeoutError:
            raise SandboxFailure(f"it did not answer within {patience_s:g} s") from None
        except OSError as error:
            raise SandboxFailure(f"its connection broke: {error}") from None
        line, self._received = self._received.split(b"\n", 1)
        return json.loads(line)

    def _last_words(self) -> str:
        try:
            _, errors = self._process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            return "for no known reason"
        lines = errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"
