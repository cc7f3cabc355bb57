"""Ports for servers that take most of a minute before they listen."""

from __future__ import annotations

import random
import socket
from itertools import islice

from megatron_stare.errors import UserError

_RANGE = range(20000, 32768)
"""Below those of outgoing connections, which might take one before the server does."""


def free_ports(host: str, count: int) -> list[int]:
    """Different ports of an address of this machine that nothing listens at.

    Raises:
        UserError: there are not so many.
    """
    free = (port for port in random.sample(_RANGE, len(_RANGE)) if _is_free(host, port))
    ports = list(islice(free, count))
    if len(ports) < count:
        raise UserError(f"{host} has {len(ports)} free ports in {_RANGE}, expected {count}")
    return ports


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True
