"""A process of foreign code, as the trainer sees it: it can be killed with all that it has started.

It runs `python -m MODULE FD`, where FD is its end of the connection (`child`).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from megatron_stare.rewards.apart import children_of
from megatron_stare.rewards.channel import Channel
from megatron_stare.system.stop_signals import kept_from_children


@dataclass(slots=True, eq=False)
class Killable:
    """A process in a session of its own, and the connection to it."""

    process: subprocess.Popen[bytes]
    death: int
    """A file descriptor that can be read when the process has ended."""
    channel: Channel

    def watch(self, poll: select.poll) -> None:
        """Have a poll find what `receive` wants to know."""
        writing = select.POLLOUT if self.channel.has_unsent else 0
        poll.register(self.channel.fileno(), select.POLLIN | writing)
        poll.register(self.death, select.POLLIN)

    def receive(self, ready: Container[int]) -> Iterator[list[Any]]:
        """Its messages, of the descriptors that a poll found; what it can be sent, is sent.

        Raises:
            EOFError, ConnectionError: the process has ended.
            Garbled: what came is no message.
        """
        if self.channel.fileno() in ready:
            self.channel.flush()
            yield from self.channel.receive()
        elif self.death in ready:  # What it started holds the connection open.
            raise EOFError

    def kill(self) -> int:
        """End the process and what it started, in other sessions too; its exit code."""
        _kill_below(self.process.pid)
        os.killpg(self.process.pid, signal.SIGKILL)
        self.channel.close()
        os.close(self.death)
        self.process.communicate()
        return self.process.returncode


def start_killable(
    module: str, variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], int, Channel]:
    """Start a process of a module; the parts of a `Killable`.

    Args:
        variables: of its environment, beside those of this process.

    Raises:
        OSError: there can be none.
    """
    with ExitStack() as undo:
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with kept_from_children(), theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=None if variables is None else {**os.environ, **variables},
            )
        undo.callback(process.communicate)
        undo.callback(process.kill)
        death = os.pidfd_open(process.pid)
        undo.pop_all()
    return process, death, Channel(ours)


def _kill_below(process: int) -> None:
    """What a process has started, and that in turn; parents go last."""
    children: set[int] = set()
    with suppress(OSError):  # It is gone.
        children = children_of(process)
    for child in children:
        _kill_below(child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
