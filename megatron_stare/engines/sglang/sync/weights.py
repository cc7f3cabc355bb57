"""What a sync carries: every tensor of the network once, each checked before it goes anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.engines.sglang.sync.checksums import Checksums
from megatron_stare.errors import UserError
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import hf_shapes

Shapes = Mapping[str, tuple[int, ...]]
"""Of all tensors of a network, by Hugging Face name."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a version on their way.

    tensors    can be iterated over once; raises ValueError at a tensor that is not the network's
    dtype      the servers'
    checksums  are given every tensor in that dtype by who carries it
    max_bytes  of the largest tensor in that dtype
    """

    tensors: Iterator[tuple[str, Tensor]]
    version: int
    dtype: torch.dtype
    checksums: Checksums
    max_bytes: int


def largest_bytes(shapes: Shapes, dtype: torch.dtype) -> int:
    """Bytes of the largest tensor in a dtype."""
    return max(math.prod(size) for size in shapes.values()) * dtype.itemsize


def check_network(folder: Path, shapes: Shapes) -> bool:
    """See that the network of a server is this one; False where its folder is not on this machine.

    Raises:
        UserError: a tensor has another shape there, or only one of them has it.
    """
    if not (folder / "config.json").exists():
        return False
    others = hf_shapes(read_hf_config(folder))
    differing = sorted(
        name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name)
    )
    if differing:
        name = differing[0]
        raise UserError(
            f"serves another network ({folder}): {name} is {others.get(name)} there, "
            f"expected {shapes.get(name)}"
        )
    return True
