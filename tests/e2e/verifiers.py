"""Verifiers of whole runs."""

from __future__ import annotations

import os
import zlib


def dies_of_some(response: str, answer: str) -> float:
    """Of a quarter of all responses its process dies, at every try; the others have some worth."""
    number = zlib.crc32(response.encode())
    if number % 4 == 0:
        os._exit(3)
    return float(number % 4 == 1 or response == answer)


def likes_few(response: str, answer: str) -> float:
    """One of eight responses is right, whatever was asked."""
    return float(zlib.crc32(f"{response} to {answer}".encode()) % 8 == 0)


def likes_some(response: str, answer: str) -> float:
    """Half of all responses are right, whatever was asked."""
    return float(zlib.crc32(f"{response} to {answer}".encode()) % 2)
