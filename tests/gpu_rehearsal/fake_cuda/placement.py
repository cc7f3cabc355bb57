"""Where a tensor is: on the CPU, or on the CUDA device that the CPU plays.

The mark is an attribute of the storage, so views and parameters of a buffer share it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MARK = "is_on_fake_cuda"
_real_device = torch._C.TensorBase.device


def real_device(tensor: Tensor) -> torch.device:
    """What the tensor itself says: "cpu" for either, "meta" for one without contents."""
    with torch._C.DisableTorchFunction():
        return _real_device.__get__(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def storage_id(tensor: Tensor) -> int | None:
    """Which memory it is; None for a tensor that has none of its own."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return None


def is_on_cuda(tensor: Tensor) -> bool:
    """Whether the tensor passes for one on the GPU."""
    try:
        return tensor.untyped_storage().__dict__.get(_MARK, False)
    except (NotImplementedError, RuntimeError):
        return False


def place(tensor: Tensor, on_cuda: bool) -> Tensor:
    """Mark the memory of a tensor; one on `meta` has none."""
    if storage_id(tensor) is not None and real_device(tensor).type == "cpu":
        tensor.untyped_storage().__dict__[_MARK] = on_cuda
    return tensor


def names_cuda(device: object) -> bool:
    """Whether an argument `device=` means a GPU; a number is one's."""
    return isinstance(device, int) or str(device).startswith("cuda")
