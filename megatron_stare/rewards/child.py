"""What a process of foreign code has of the trainer: a connection, and its death.

Standard input is a pipe that nothing is ever written to, whose other end dies with the trainer.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from megatron_stare.rewards.channel import LENGTH

_BUFFER_BYTES = 1 << 18


class Connection:
    """To the pool, of this process alone."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._reader = self._socket.makefile("rb", buffering=_BUFFER_BYTES)
        os.register_at_fork(after_in_child=lambda: os.close(self._socket.detach()))

    def send(self, *message: Any) -> None:
        """A message that JSON can hold."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """The next message; the process ends where the pool has hung up."""
        prefix = self._reader.read(LENGTH.size)
        if not prefix:
            sys.exit()
        return pickle.loads(self._reader.read(*LENGTH.unpack(prefix)))


def find_as_the_trainer(import_path: Sequence[str]) -> None:
    """Find modules where the trainer does, and before that in the current folder."""
    sys.path[:] = dict.fromkeys([os.getcwd(), *sys.path, *import_path])


def imported(path: str) -> Any:
    """What `package.module:name` names; whatever importing raises is foreign code's."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def die_with_the_trainer() -> None:
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
