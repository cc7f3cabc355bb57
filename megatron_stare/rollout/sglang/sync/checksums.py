"""Checksums of weights, computed here the way a server on a CPU computes those of its own.

A server keeps some tensors one after the other in one: queries, keys and values; gate and up. It
pads vocabularies and the channels of an MLP with zeros. Experts it keeps in a layout of its own:
they are left out.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

_SHARE = 8
"""After the first time, one tensor in so many is hashed; each has its turn."""
_FUSED = (
    (re.compile(r"\.self_attn\.[qkv]_proj\."), ".self_attn.qkv_proj."),
    (re.compile(r"\.mlp\.(gate|up)_proj\."), ".mlp.gate_up_proj."),
)
_PARTS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""In the order in which a server keeps them."""
_PADDED = (
    (re.compile(r"^(model\.embed_tokens|lm_head)\."), 0, 64),
    (re.compile(r"\.mlp\.(gate|up)_proj\."), 0, 32),
    (re.compile(r"\.mlp\.down_proj\.weight$"), 1, 32),
)
"""Names, the dimension that is padded, and to a multiple of what."""
_EXPERT = re.compile(r"\.mlp\.experts\.")


class Hashing:
    """Which tensors make up each tensor of a server, by Hugging Face names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parts: dict[str, list[str]] = {}
        for name in sorted((n for n in names if not _EXPERT.search(n)), key=_place):
            self._parts.setdefault(_server_name(name), []).append(name)

    def checksums(self, version: int | None) -> Checksums:
        """Of the server's tensors whose turn it is at a version, or of all; empty so far."""
        in_turn = {
            whole
            for whole in self._parts
            if version is None or zlib.crc32(whole.encode()) % _SHARE == version % _SHARE
        }
        wholes = {whole: _Whole(self._parts[whole]) for whole in in_turn}
        return Checksums(
            {part: whole for whole in in_turn for part in self._parts[whole]},
            wholes,
            skipped=sorted(self._parts.keys() - in_turn),
        )


@dataclass(slots=True)
class _Whole:
    """A server's tensor, hashed part after part; a part that comes too early waits as a copy."""

    parts: Sequence[str]
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    num_hashed: int = 0
    early: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor) -> bool:
        """Take a part; whether it was the last one missing."""
        if name != self.parts[self.num_hashed]:
            self.early[name] = tensor.clone()
            return False
        self._hash(name, tensor)
        while self.num_hashed < len(self.parts) and self.parts[self.num_hashed] in self.early:
            name = self.parts[self.num_hashed]
            self._hash(name, self.early.pop(name))
        return self.num_hashed == len(self.parts)

    def _hash(self, name: str, tensor: Tensor) -> None:
        padded = _padded(name, tensor.detach().cpu()).contiguous()
        self.digest.update(padded.reshape(-1).view(torch.uint8).numpy())
        self.num_hashed += 1


@dataclass(slots=True)
class Checksums:
    """Filled tensor by tensor.

    whole_of   the server's tensor of each one to be hashed
    skipped    the server's tensors whose turn it is not
    hashes     what a server with these weights reports
    """

    whole_of: Mapping[str, str]
    _wholes: Mapping[str, _Whole]
    skipped: Sequence[str]
    hashes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor in the servers' dtype; it may change afterwards."""
        whole = self.whole_of.get(name)
        if whole is not None and self._wholes[whole].add(name, tensor):
            # A server reports the first 8 bytes of SHA-256 over the bytes of its tensor.
            self.hashes[whole] = self._wholes[whole].digest.hexdigest()[:16]

    def differing(self, found: Mapping[str, str]) -> list[str]:
        """Names whose checksum a server does not have."""
        return [name for name, checksum in self.hashes.items() if found.get(name) != checksum]


def _server_name(name: str) -> str:
    for part, whole in _FUSED:
        name = part.sub(whole, name)
    return name


def _place(name: str) -> int:
    """Of a part among the parts of its whole; 0 for others."""
    return next((place for place, part in enumerate(_PARTS) if f".{part}." in name), 0)


def _padded(name: str, tensor: Tensor) -> Tensor:
    for names, dim, multiple in _PADDED:
        after = -tensor.shape[dim] % multiple if names.search(name) else 0
        if after:
            return F.pad(tensor, (0, 0) * (tensor.ndim - 1 - dim) + (0, after))
    return tensor
