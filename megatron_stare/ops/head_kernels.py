"""Which kernels compute the head: Triton's on CUDA once they have proved themselves, else torch's.

Triton's are for 16-bit operands; in float32, without tensor cores, nothing beats cuBLAS.

The proof is six small random cases, once per device and type: partials and gradients against
torch, where sizes divide by 16 and where not, with a gradient of the entropy and without. Each of
the six is compiled to a binary of its own. A missing Triton, a compiler error or a wrong number
costs a warning and speed, never a run or its correctness.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.ops.head_tiles import DLogits, KeptTiles, Tile, head_d_logits, head_partial
from megatron_stare.ops.partials import RowTerms, combine

Partial = Callable[[Tensor, Tensor, Tensor, Tensor, Tile, KeptTiles], Tensor]
"""(hidden `[n, h]`, columns `[v, h]`, local targets, temperature, tile, kept) -> `[4, n]`."""


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
    return trusted(triton_kernels, device, dtype)


def triton_kernels() -> HeadKernels:
    """Those for a GPU, whether or not they agree with torch."""
    # Triton comes with CUDA builds of torch only.
    from megatron_stare.ops.head_triton import triton_d_logits, triton_partial

    return HeadKernels(triton_partial, triton_d_logits)


def trusted(
    load: Callable[[], HeadKernels], device: torch.device, dtype: torch.dtype
) -> HeadKernels:
    """The kernels, if they load and agree with torch; else torch's, with a warning."""
    try:
        kernels = load()
        errors = disagreement(kernels, device, dtype)
    except UserError:  # of the environment, which names a tile
        raise
    except Exception as failure:  # whatever an import, a compiler or a driver may raise
        reason = f"failed with {type(failure).__name__}: {failure}"
    else:
        named = zip(errors, Disagreement.allowed(dtype), Disagreement._fields, strict=True)
        excesses = [
            f"{error:.2g} in {name}, more than {bound:.2g}"
            for error, bound, name in named
            if error > bound
        ]
        if not excesses:
            return kernels
        reason = f"differ from torch by {' and by '.join(excesses)}"
    warnings.warn(
        f"head kernels on {device} in {dtype} {reason}; using torch instead, slower",
        RuntimeWarning,
        stacklevel=2,
    )
    return TORCH


class Disagreement(NamedTuple):
    """The largest errors of the two halves; infinite where one has a NaN.

    partial   relative to 1 + |value|
    d_logits  relative to |value| + the mean |value| of its row, since most are about 1/v
    """

    partial: float
    d_logits: float

    @classmethod
    def allowed(cls, dtype: torch.dtype) -> Disagreement:
        """Sums of products differ in their order alone; d_logits are rounded to `dtype` once."""
        return cls(1e-4, max(1e-4, 2 * torch.finfo(dtype).eps))


_SIZES = ((70, 1100, 72), (256, 2064, 128), (70, 2064, 128))
"""(n, v, h) that divide by no tile; by 16; and all but n by 16, as in training. Loads are
asynchronous where v and h divide. The columns make more than one split.
"""


def disagreement(kernels: HeadKernels, device: torch.device, dtype: torch.dtype) -> Disagreement:
    """How far the kernels are from torch, over all sizes, with an entropy gradient and without."""
    errors = [
        _disagreement_on(_Case.random(*sizes, device, dtype), kernels, has_d_entropy)
        for sizes in _SIZES
        for has_d_entropy in (False, True)
    ]
    return Disagreement(*map(max, zip(*errors, strict=True)))


class _Case(NamedTuple):
    """Inputs of a head: rows differ in temperature, some targets are elsewhere."""

    hidden: Tensor
    columns: Tensor
    targets: Tensor
    temperature: Tensor

    @classmethod
    def random(cls, n: int, v: int, h: int, device: torch.device, dtype: torch.dtype) -> _Case:
        """Logits of standard deviation 1, so that many columns count in sums and gradients."""
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(n, h, generator=generator)
        columns = torch.randn(v, h, generator=generator) * h**-0.5
        targets = torch.randint(-v // 4, v + v // 4, (n,), generator=generator).to(device)
        temperature = torch.linspace(0.5, 2.0, n, device=device)
        return cls(hidden.to(device, dtype), columns.to(device, dtype), targets, temperature)


def _disagreement_on(case: _Case, kernels: HeadKernels, has_d_entropy: bool) -> Disagreement:
    partial, d_logits = _computed(case, kernels, has_d_entropy)
    want_partial, want_d_logits = _computed(case, TORCH, has_d_entropy)
    scale = want_d_logits.abs()
    scale += scale.mean(1, keepdim=True)
    return Disagreement(
        _largest((partial - want_partial) / (1 + want_partial.abs())),
        _largest((d_logits - want_d_logits) / scale),
    )


def _computed(case: _Case, kernels: HeadKernels, has_d_entropy: bool) -> tuple[Tensor, Tensor]:
    """The partial `[4, n]` and, from the same terms whatever the kernels, d_logits `[n, v]`."""
    tile = Tile.for_head(case.hidden.shape[1], case.hidden.device)
    partial = kernels.partial(*case, tile, KeptTiles(0))
    _, entropy, maximum, total = combine(TORCH.partial(*case, tile, KeptTiles(0)), None)
    # Of either sign and away from 0, where the smallest would round to nothing in float16.
    d_logprob = torch.linspace(0.5, 1.0, len(entropy), device=entropy.device)
    d_logprob[::2] *= -1
    d_entropy = d_logprob.flip(0) if has_d_entropy else None
    terms = RowTerms.of(case.temperature, maximum, total, d_logprob, d_entropy, entropy)
    return partial, kernels.d_logits(case.hidden, case.columns, case.targets, terms).float()


def _largest(error: Tensor) -> float:
    return float(error.abs().nan_to_num(torch.inf, torch.inf).max())
