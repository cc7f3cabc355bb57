"""A warm interpreter that forks a child for every run: `python -m ...sandbox.template`.

Standard input is its connection to the trainer; both sides send lines of JSON.

    trainer   {"walls": ..., "folder": ..., ...}        `Setup`
    template  {"ready": true}                           or {"error": why not}
    trainer   {"code": ..., "deadline_s": ...}
    template  {"output": ..., "ending": ..., "signal": ..., "seconds": ...}

It never runs a model's code, so that every child begins with the same memory. One child lives at a
time, in a folder that is empty when it begins; of what it says nothing is believed but that it was
printed. The template ends when the trainer hangs up, and a child with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from megatron_stare.tools.sandbox import landlock, seccomp
from megatron_stare.tools.sandbox.child import run_code, seeded_modules
from megatron_stare.tools.sandbox.confine import (
    Limits,
    address_space,
    close_others,
    hide,
    limit,
    wall_in,
)

_TICK_MS = 50
_READ_BYTES = 1 << 16
_BYTES_OF_ANY_FILE = 4096


@dataclass(frozen=True, slots=True)
class Setup:
    """What a template is told first.

    walls         bubblewrap (this process is behind them), landlock or none
    folder        in which the code may write files
    readable      that it may read, with landlock
    import_path   folders of `packages`
    packages      that are imported before there is any code
    """

    walls: str
    folder: str
    readable: Sequence[str]
    import_path: Sequence[str]
    packages: Sequence[str]
    limits: Limits


class _Template:
    def __init__(self, setup: Setup, connection: socket.socket) -> None:
        hide()
        self._setup, self._connection = setup, connection
        self._nothing = os.open(os.devnull, os.O_RDONLY)
        sys.path[:] = [*sys.path[1:], *setup.import_path]  # The first is this package's.
        for name in (*setup.packages, *seeded_modules(setup.packages)):
            importlib.import_module(name)
        importlib.invalidate_caches()  # Of folders that a run may not list.
        for name in [name for name in sys.modules if name.partition(".")[0] == "megatron_stare"]:
            del sys.modules[name]
        gc.collect()
        gc.freeze()  # A collection in a child would copy what it shares with all others.
        os.chdir(setup.folder)
        self._ruleset = None
        if setup.walls == "landlock":
            self._ruleset = landlock.make_ruleset(
                [Path(path) for path in setup.readable], [Path(setup.folder), Path(os.devnull)]
            )
        if setup.walls != "none":
            seccomp.prepare()
        self._address_space = address_space()

    def run(self, code: str, deadline_s: float) -> dict[str, Any]:
        """Run some code in a child, and say what came of it."""
        start = time.monotonic()
        reading, writing = os.pipe()
        said, saying = os.pipe()
        process = os.getpid()
        child = os.fork()
        if child == 0:
            self._become(code, writing, saying, process)
        os.close(writing)
        os.close(saying)
        try:
            output, ending = self._watch(child, reading, start + deadline_s)
        finally:
            os.close(reading)
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            self._clear_folder()
        with open(said, encoding="utf-8") as trouble:
            if reason := trouble.read():
                raise OSError(f"a run could not be walled in: {reason}")
        return {
            "output": output.decode(errors="replace"),
            "ending": ending or self._ending(status, usage.ru_utime + usage.ru_stime),
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "seconds": time.monotonic() - start,
        }

    def _become(self, code: str, writing: int, saying: int, parent: int) -> NoReturn:
        """As the child: `saying` takes what goes wrong before there are walls, and is closed."""
        try:
            for target, source in enumerate((self._nothing, writing, writing)):
                os.dup2(source, target)
            limit(self._setup.limits, self._address_space)
            if self._setup.walls == "none":
                close_others()
            else:
                wall_in(parent, self._ruleset)
        except BaseException as error:
            os.write(saying, str(error).encode())
            os._exit(1)
        run_code(code)

    def _watch(self, child: int, reading: int, deadline: float) -> tuple[bytes, str | None]:
        """What a child prints until it ends, and why it has to, if it has to."""
        limits, output = self._setup.limits, b""
        death = os.pidfd_open(child)
        poll = select.poll()
        for descriptor in (reading, death, self._connection.fileno()):
            poll.register(descriptor, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll(_TICK_MS)}
                if self._connection.fileno() in ready:
                    os.kill(child, signal.SIGKILL)
                    sys.exit()  # The trainer has hung up.
                more = os.read(reading, _READ_BYTES) if reading in ready else b""
                output += more
                if len(output) > limits.output_bytes:
                    return output[: limits.output_bytes], "output"
                if reading in ready and not more:
                    poll.unregister(reading)  # Closed; it may go on without.
                if death in ready and not more:
                    return output, None
                if time.monotonic() >= deadline:
                    return output, "time"
                if self._written_bytes() > limits.file_bytes:
                    return output, "files"
        finally:
            os.close(death)

    def _written_bytes(self) -> int:
        """In the child's folder, counted until it is too much."""
        total = 0
        with os.scandir(".") as entries:
            for entry in entries:
                try:
                    total += _BYTES_OF_ANY_FILE + 512 * entry.stat(follow_symlinks=False).st_blocks
                except OSError:  # It has just been removed.
                    continue
                if total > self._setup.limits.file_bytes:
                    break
        return total

    def _clear_folder(self) -> None:
        with os.scandir(".") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):  # Made without walls.
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)

    def _ending(self, status: int, cpu_s: float) -> str:
        if os.WIFEXITED(status):
            return "raised" if os.WEXITSTATUS(status) else "done"
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU or cpu_s >= self._setup.limits.cpu_s:
            return "cpu"
        return "killed" if number == signal.SIGKILL else "died"


def main() -> None:
    """Serve runs until the trainer hangs up."""
    connection = socket.socket(fileno=os.dup(0))
    os.set_inheritable(connection.fileno(), False)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    requests = connection.makefile("r", encoding="utf-8")
    answers = connection.makefile("w", encoding="utf-8")

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    setup = json.loads(requests.readline())
    try:
        template = _Template(Setup(**{**setup, "limits": Limits(**setup["limits"])}), connection)
    except Exception as error:  # Packages are foreign code.
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer({"ready": True})
    try:
        for line in requests:
            request = json.loads(line)
            answer(template.run(request["code"], request["deadline_s"]))
    finally:
        if setup["walls"] != "bubblewrap":  # The trainer may be gone.
            shutil.rmtree(setup["folder"], ignore_errors=True)


if __name__ == "__main__":
    main()
