"""Randomness that is a function of names, never of order: same run, same sample, same noise."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the names of what it is for, e.g. `(run seed, step, round)`."""
    return int.from_bytes(_digest(parts, size=8)) >> 1


def token_uniforms(seed: int, uid: str, index: int, num_tokens: int) -> np.ndarray:
    """One number in [0, 1) per response token of a sample, float64 `[num_tokens]`.

    The stream is counter-based, so a longer one begins with the shorter one.
    """
    key = int.from_bytes(_digest((seed, uid, index), size=16))
    return np.random.Generator(np.random.Philox(key=key)).random(num_tokens)


def _digest(parts: tuple[int | str, ...], size: int) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=size).digest()
