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
