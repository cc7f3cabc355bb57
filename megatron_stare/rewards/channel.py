"""The pool's end of a connection to a worker, on which nothing waits.

What goes out is pickled, behind its length. What comes in is foreign: the verifier shares a process
with the other end, and may have written there itself. So it is read as lines of JSON, and whatever
is no message is `Garbled`.
"""

from __future__ import annotations

import json
import pickle
import socket
import struct
from collections.abc import Iterator
from typing import Any

LENGTH = struct.Struct("<Q")
"""Bytes of a message that goes out, before it."""

_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 1 << 22


class Garbled(Exception):
    """The other end has said something that is no message."""


class Channel:
    """Messages to and from a worker; no method waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._unsent = memoryview(b"")
        self._received = b""

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` is to be called when the other end reads."""
        return bool(self._unsent)

    def send(self, message: Any) -> None:
        """Have a message go out, after those before it.

        Raises:
            ConnectionError: there is no other end.
        """
        content = pickle.dumps(message)
        self._unsent = memoryview(b"".join((self._unsent, LENGTH.pack(len(content)), content)))
        self.flush()

    def flush(self) -> None:
        """Send as much as the other end takes now.

        Raises:
            ConnectionError: there is no other end.
        """
        while self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return

    def receive(self) -> Iterator[list[Any]]:
        """Messages that have come, lists that begin with their kind; there may be more.

        Raises:
            EOFError, ConnectionError: there is no other end, nor anything more from it.
            Garbled: what came is no message.
        """
        try:
            content = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        if not content:
            raise EOFError
        *lines, self._received = (self._received + content).split(b"\n")
        yield from map(_parsed, lines)
        if len(self._received) > _MAX_LINE_BYTES:
            raise Garbled

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _parsed(line: bytes) -> list[Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Garbled from None
    if not isinstance(message, list) or not message:
        raise Garbled
    return message
