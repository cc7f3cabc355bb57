"""Random weights that are one and the same network in every parallel layout.

Each tensor of the Hugging Face checkpoint that the network would have is drawn whole, by a
generator seeded from the run's seed and the tensor's name; a rank keeps the slices it would load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.names import model_entries

_STANDARD_DEVIATION = 0.02


@torch.no_grad()
def init_randomly(
    params: Mapping[str, Tensor],
    shape: ModelShape,
    *,
    tp_rank: int,
    tp_size: int,
    seed: int,
) -> None:
    """Fill one rank's parameters of a pipeline stage; arguments as `load_hf_weights` has.

    Norms are 1, biases and vocabulary padding 0, the rest normal with standard deviation 0.02.
    """
    entries = model_entries(shape)
    for name, param in params.items():
        entry = entries[name]
        whole = {tensor: _draw(tensor, size, seed) for tensor, size in entry.hf.items()}
        param.copy_(entry.shard(whole, tp_rank, tp_size))


def _draw(name: str, size: tuple[int, ...], seed: int) -> Tensor:
    if "norm" in name:
        return torch.ones(size)
    if name.endswith(".bias"):
        return torch.zeros(size)
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], signed=True))
    return torch.empty(size).normal_(0.0, _STANDARD_DEVIATION, generator=generator)
