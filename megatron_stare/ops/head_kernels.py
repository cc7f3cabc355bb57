"""Which kernels compute the head: Triton's on CUDA once they have proved themselves, else torch's.

Triton's are for 16-bit operands; in float32, without tensor cores, nothing beats cuBLAS.

The proof is a small random case, once per device and type: partials and gradients against torch. A
compiler error or a wrong number costs a warning and speed, never a run or its correctness.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from megatron_stare.ops.head_tiles import DLogits, Tile, head_d_logits, head_partial
from megatron_stare.ops.partials import RowTerms, combine

Partial = Callable[[Tensor, Tensor, Tensor, Tensor, Tile], Tensor]
"""(hidden `[n, h]`, columns `[v, h]`, local targets, temperature, tile) -> partial `[4, n]`."""


class HeadKernels(NamedTuple):
    """The two halves of a head."""

    partial: Partial
    d_logits: DLogits


TORCH = HeadKernels(head_partial, head_d_logits)


@functools.cache
def kernels_for(device: torch.device, dtype: torch.dtype) -> HeadKernels:
    """The kernels for operands of this type on this device."""
    if device.type != "cuda" or dtype == torch.float32:
        return TORCH
    # Triton comes with CUDA builds of torch only.
    from megatron_stare.ops.head_triton import triton_d_logits, triton_partial

    return trusted(HeadKernels(triton_partial, triton_d_logits), device, dtype)


def trusted(kernels: HeadKernels, device: torch.device, dtype: torch.dtype) -> HeadKernels:
    """The kernels, if they agree with torch on a random case; else torch's, with a warning."""
    try:
        error = disagreement(kernels, device, dtype)
    except Exception as failure:  # whatever a compiler or a driver may raise
        reason = f"failed with {type(failure).__name__}: {failure}"
    else:
        # Values are in float32; d_logits are rounded to the operands' type once.
        bound = max(1e-4, 2 * torch.finfo(dtype).eps)
        if error <= bound:
            return kernels
        reason = f"differ from torch by {error:.2g}, more than {bound:.2g}"
    warnings.warn(
        f"head kernels on {device} in {dtype} {reason}; using torch instead, slower",
        RuntimeWarning,
        stacklevel=2,
    )
    return TORCH


def disagreement(kernels: HeadKernels, device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference from torch, relative to 1 + |value|, on a small random case.

    Sizes divide by no tile, columns make two splits, rows differ in temperature, some targets are
    elsewhere.
    """
    n, v, h = 70, 1100, 72
    generator = torch.Generator().manual_seed(0)
    hidden, columns = (torch.randn(m, h, generator=generator).to(device, dtype) for m in (n, v))
    targets = torch.randint(-v // 4, v + v // 4, (n,), generator=generator).to(device)
    temperature = torch.linspace(0.5, 2.0, n, device=device)
    tile = Tile.for_head(h, device)
    results = []
    for each in (kernels, TORCH):
        partial = each.partial(hidden, columns, targets, temperature, tile)
        _, entropy, maximum, total = combine(partial, None)
        slopes = torch.linspace(-1.0, 1.0, n, device=device)
        terms = RowTerms.of(temperature, maximum, total, slopes, slopes.flip(0), entropy)
        d_logits = each.d_logits(hidden, columns, targets, terms).float()
        results.append(torch.cat([partial.flatten(), d_logits.flatten()]))
    actual, expected = results
    return float(((actual - expected).abs() / (1 + expected.abs())).nan_to_num(torch.inf).max())
