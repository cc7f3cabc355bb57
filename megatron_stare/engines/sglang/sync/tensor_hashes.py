"""The hashes of tensors that servers report: one kind on CPUs, another on GPUs (SGLang 0.5.23).

Both are of the bytes of a contiguous tensor, as 16 hexadecimal digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_TILE = 8192
"""Words that are summed before they are mixed again."""
_NUM_TILES = 256
"""Mixed at once: 64-bit copies of 8 MiB of words."""
_SEEDS = (0x243F6A88, (0x243F6A88 * 0x9E3779B1 ^ 0xDEADBEEF) & 0xFFFFFFFF)
_STEPS = ((0x27D4EB2D, 15), (0x165667B1, 13))
"""For each half of the hash, what a word's position is multiplied with, and rotated by."""
_MASK_32 = (1 << 32) - 1
_MASK_64 = (1 << 64) - 1


def hash_on_cpu(parts: Sequence[Tensor]) -> str:
    """Of the parts one after the other: the first 8 bytes of SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def hash_on_gpu(parts: Sequence[Tensor]) -> str:
    """Of the parts one after the other, computed where they are.

    Each 32-bit word is mixed with its position by two functions, sums over tiles are mixed again to
    64 bits, and so is the sum of those.
    """
    flat = [part.contiguous().reshape(-1).view(torch.uint8) for part in parts]
    # The largest tensors are alone, and begin at a whole word: no copy of them is made.
    data = flat[0] if len(flat) == 1 else torch.cat(flat)
    if data.numel() % 4:
        data = torch.nn.functional.pad(data, (0, -data.numel() % 4))
    elif data.storage_offset() % 4:
        data = data.clone()
    words = data.view(torch.int32)
    total = sum(
        _sum_of_tiles(chunk, start, words.numel())
        for chunk, start in zip(
            words.split(_TILE * _NUM_TILES),
            range(0, words.numel(), _TILE * _NUM_TILES),
            strict=True,
        )
    )
    return f"{_mix_64(total):016x}"


def _sum_of_tiles(words: Tensor, start: int, num_words: int) -> int:
    """Of int32 words at positions from `start`; unsigned numbers are kept in int64."""
    values = words.long() & _MASK_32
    positions = torch.arange(start, start + words.numel(), device=words.device)
    halves = []
    for seed, (factor, rotation) in zip(_SEEDS, _STEPS, strict=True):
        rotated = (positions << rotation | positions >> (32 - rotation)) & _MASK_32
        mixed = _mix_32(values ^ (positions * factor + seed & _MASK_32) ^ rotated)
        tiles = torch.nn.functional.pad(mixed, (0, -mixed.numel() % _TILE)).view(-1, _TILE)
        halves.append(_mix_32(tiles.sum(1) & _MASK_32 ^ num_words * 4 & _MASK_32))
    return int((halves[0] << 32 | halves[1]).sum())


def _mix_32(x: Tensor) -> Tensor:
    """The finalizer of MurmurHash3, 32 bits."""
    x = x ^ x >> 16
    x = x * 0x85EBCA6B & _MASK_32
    x = x ^ x >> 13
    x = x * 0xC2B2AE35 & _MASK_32
    return x ^ x >> 16


def _mix_64(x: int) -> int:
    """The finalizer of SplitMix64."""
    x &= _MASK_64
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & _MASK_64
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & _MASK_64
    return x ^ x >> 31
