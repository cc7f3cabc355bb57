"""Ports for servers that take most of a minute before they listen."""

from __future__ import annotations

import random
import socket

_RANGE = range(20000, 32768)
"""Below those of outgoing connections, which might take one before the server does."""


def free_ports(host: str, count: int) -> list[int]:
    """Different ports of an address of this machine that nothing listens at."""
    ports = (port for port in random.sample(_RANGE, len(_RANGE)) if _is_free(host, port))
    return [next(ports) for _ in range(count)]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True
