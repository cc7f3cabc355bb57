"""Checksums of weights, computed here the way servers compute those of their own.

A server keeps some tensors one after the other in one: queries, keys and values; gate and up; the
experts of a layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from megatron_stare.engines.sglang.sync.server_layout import ServerLayout
from megatron_stare.engines.sglang.sync.tensor_hashes import hash_on_cpu, hash_on_gpu
from megatron_stare.system.balance import balanced

_TURNS = 64
"""After the first time, one byte in so many is hashed; each tensor has its turn."""
_FUSED = (
    (re.compile(r"\.self_attn\.[qkv]_proj\."), ".self_attn.qkv_proj."),
    (re.compile(r"\.mlp\.(gate|up)_proj\."), ".mlp.gate_up_proj."),
    (re.compile(r"\.experts\.\d+\.(gate|up)_proj\."), ".experts.w13_"),
    (re.compile(r"\.experts\.\d+\.down_proj\."), ".experts.w2_"),
)
_PARTS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""In the order in which a server keeps them."""
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


class Checksums:
    """Of the servers' tensors whose turn it is at a version, or of all; filled tensor by tensor.

    skipped  names of the servers' tensors whose turn it is not, or whose layout is not known
    hashes   what servers with these weights report, by `checksum_key`

    Args:
        shapes: of all tensors of the network, by Hugging Face name.
        version: whose turn it is; None takes all.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], layout: ServerLayout, version: int | None
    ) -> None:
        parts: dict[str, list[str]] = {}
        for name in sorted(shapes, key=_place):
            parts.setdefault(_server_name(name), []).append(name)
        in_turn = {whole for whole, names in parts.items() if layout.is_known(names[0])}
        if version is not None:
            sizes = {
                whole: sum(math.prod(shapes[name]) for name in names)
                for whole, names in parts.items()
                if whole in in_turn
            }
            num_turns = min(_TURNS, len(sizes))  # Every time at least one.
            in_turn = set(balanced(sizes, num_turns)[version % num_turns])
        self.skipped: Sequence[str] = sorted(parts.keys() - in_turn)
        self.hashes: dict[str, str] = {}
        self._layout = layout
        self._parts = {whole: parts[whole] for whole in in_turn}
        self._whole_of = {part: whole for whole in in_turn for part in parts[whole]}
        self._waiting: dict[str, Tensor] = {}
        """Copies of parts of which others are still to come."""

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor in the servers' dtype; it may change afterwards."""
        whole = self._whole_of.get(name)
        if whole is None:
            return
        parts = self._parts[whole]
        if all(part == name or part in self._waiting for part in parts):
            tensors = [tensor if part == name else self._waiting.pop(part) for part in parts]
            self._hash(whole, tensors)
        else:
            self._waiting[name] = tensor.detach().clone()

    def differing(self, found: Mapping[str, str]) -> list[str]:
        """Names whose checksum a server does not have."""
        return [name for name, checksum in self.hashes.items() if found.get(name) != checksum]

    def _hash(self, whole: str, tensors: Sequence[Tensor]) -> None:
        layout, names = self._layout, self._parts[whole]
        compute = hash_on_cpu if layout.device == "cpu" else hash_on_gpu
        for rank in range(layout.num_ranks):
            shards = [
                layout.shard(name, tensor.detach(), rank)
                for name, tensor in zip(names, tensors, strict=True)
            ]
            self.hashes[checksum_key(whole, rank)] = compute(shards)


def checksum_key(name: str, rank: int) -> str:
    """A name for a tensor of a tensor-parallel rank of a server."""
    return f"{name} of rank {rank}"


def _server_name(name: str) -> str:
    for part, whole in _FUSED:
        name = part.sub(whole, name)
    return name


def _place(name: str) -> tuple[int, int]:
    """Of a part among the parts of its whole: by expert, then by kind; 0 for others."""
    expert = _EXPERT.search(name)
    kind = next((place for place, part in enumerate(_PARTS) if f".{part}." in name), 0)
    return (0 if expert is None else int(expert[1])), kind
