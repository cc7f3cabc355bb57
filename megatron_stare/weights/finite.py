"""Whether weights are finite: one NaN in them makes every answer of the model one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from megatron_stare.errors import UserError

LARGEST_WEIGHT = 1e15
"""Of what a run may save: the squares of a layer of larger ones would overflow in float32."""


def is_finite(tensor: Tensor) -> bool:
    """Whether every element is: one pass at the speed of memory.

    A sum is finite only if all are, and is ten times as fast as asking each of them. One that
    overflows says nothing, so then they are asked.
    """
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())


def first_spoiled(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that is not finite, or beyond `LARGEST_WEIGHT`.

    Waits for the tensors' device once. None if all are sound.
    """
    names, tensors = zip(*named, strict=True)
    # A norm is at least the largest element, and costs one read of them, as a sum does.
    norms = torch.stack([torch.linalg.vector_norm(tensor.detach()).float() for tensor in tensors])
    suspects = (~(norms <= LARGEST_WEIGHT)).nonzero()[:, 0].tolist()
    return next((names[number] for number in suspects if _is_spoiled(tensors[number])), None)


def _is_spoiled(tensor: Tensor) -> bool:
    return not bool((tensor.float().abs() <= LARGEST_WEIGHT).all())


def check_finite(tensor: Tensor, where: str) -> Tensor:
    """The same tensor.

    Raises:
        UserError: an element is NaN or infinite; the message begins with `where`.
    """
    if not is_finite(tensor):
        bad = (~tensor.isfinite()).nonzero()
        first = bad[0].tolist()
        raise UserError(
            f"{where} has {len(bad)} of {tensor.numel()} values that are not finite, the first is "
            f"{tensor[tuple(first)].item()} at {first}; expected finite weights"
        )
    return tensor


def cast(tensor: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """A finite tensor in a dtype.

    Raises:
        UserError: an element is too large for it; the message begins with `where`.
    """
    converted = tensor.to(dtype)
    if converted.dtype != tensor.dtype and not is_finite(converted):
        largest = tensor.abs().max().item()
        limit = torch.finfo(dtype).max
        raise UserError(
            f"{where} has values up to {largest:.4g}; expected at most {limit:.4g}, the largest "
            f"of {str(dtype).removeprefix('torch.')}"
        )
    return converted
