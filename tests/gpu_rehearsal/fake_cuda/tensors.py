"""Methods of tensors that name a device or move to another; torch's own see the CPU only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.gpu_rehearsal.fake_cuda.checks import unchecked
from tests.gpu_rehearsal.fake_cuda.placement import (
    is_on_cuda,
    names_cuda,
    place,
    real_device,
)

_real = {name: getattr(torch._C.TensorBase, name) for name in ("to", "numpy", "type")}
_storage_clone = torch.UntypedStorage.clone


def install() -> None:
    """Replace the methods, and the factories that read data; others ask where the checks see it."""
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _read_on_cpu(getattr(torch, name)))
    methods = {
        "device": property(_device),
        "is_cuda": property(is_on_cuda),
        "get_device": lambda self: torch.cuda.current_device() if is_on_cuda(self) else -1,
        "to": _to,
        "cuda": lambda self, *args, **kwargs: _moved(self, True),
        "cpu": lambda self, *args, **kwargs: _moved(self, False),
        "numpy": _numpy,
        "type": _type,
        "new_tensor": _new_tensor,
        "pin_memory": lambda self, *args: self,
        "record_stream": lambda self, stream: None,
    }
    for name, method in methods.items():
        setattr(Tensor, name, method)
    torch.UntypedStorage.clone = _clone_storage


def _read_on_cpu(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(factory)
    def read(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is not None and torch.device(device).type == "meta":
            return factory(data, *args, device=device, **kwargs)
        kwargs.pop("pin_memory", None)
        made = factory(data, *args, **kwargs)
        return made if device is None else made.to(device)

    return read


def _device(self: Tensor) -> torch.device:
    on_cuda = is_on_cuda(self)
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else real_device(self)


class _Move(torch.autograd.Function):
    """A copy on the other device; the gradient comes back to this one."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, on_cuda: bool) -> Tensor:
        ctx.came_from_cuda = is_on_cuda(tensor)
        with unchecked():
            return place(tensor.detach().clone(), on_cuda)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        with unchecked():
            return place(gradient.clone(), ctx.came_from_cuda), None


def _moved(tensor: Tensor, on_cuda: bool) -> Tensor:
    if is_on_cuda(tensor) == on_cuda or real_device(tensor).type == "meta":
        return tensor
    return _Move.apply(tensor, on_cuda)


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Any way to call `Tensor.to`: the move first, then the rest, which is of type and layout."""
    device, rest = kwargs.pop("device", None), list(args)
    if rest and isinstance(rest[0], Tensor):
        device, rest[0] = rest[0].device, rest[0].dtype
    elif rest and (rest[0] is None or isinstance(rest[0], str | int | torch.device)):
        device = rest.pop(0)
    kwargs.pop("non_blocking", None)
    if rest and isinstance(rest[-1], bool):
        rest.pop()
    if device is None:
        return _real["to"](self, *rest, **kwargs) if rest or kwargs else self
    if torch.device(device).type == "meta" or real_device(self).type == "meta":
        return _real["to"](self, *rest, device=device, **kwargs)
    moved = _moved(self, names_cuda(device))
    if moved is not self:
        kwargs.pop("copy", None)
    return _real["to"](moved, *rest, **kwargs) if rest or kwargs else moved


def _numpy(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    if is_on_cuda(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    return _real["numpy"](self, *args, **kwargs)


def _type(self: Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    if dtype is not None:
        return _real["type"](self, dtype, *args, **kwargs)
    name = _real["type"](self)
    return name.replace("torch.", "torch.cuda.", 1) if is_on_cuda(self) else name


def _new_tensor(self: Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
    made = torch.tensor(data, dtype=dtype or self.dtype)
    return made.to(self.device if device is None else device)


def _clone_storage(self: torch.UntypedStorage) -> torch.UntypedStorage:
    clone = _storage_clone(self)
    vars(clone).update(vars(self))
    return clone
