"""Every operation, looked at on its way to the CPU's kernel.

On a mix of devices it raises what CUDA raises. CUDA takes a number (a tensor of no dimensions) from
the CPU, indices from the CPU into a tensor of its own, and copies either way.
"""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.gpu_rehearsal.fake_cuda.placement import (
    is_on_cuda,
    names_cuda,
    place,
    real_device,
    storage_id,
)

aten = torch.ops.aten


class DeviceMixup(RuntimeError):
    """What a real GPU, or NCCL, would have refused."""


@dataclass
class Record:
    """What happened in this process.

    mixups       messages of every `DeviceMixup`, for the one that somebody catches
    collectives  how often: (operation, device, dtype)
    """

    mixups: list[str] = field(default_factory=list)
    collectives: collections.Counter[tuple[str, str, str]] = field(
        default_factory=collections.Counter
    )

    def refuse(self, message: str) -> None:
        """Note a mix-up and raise it."""
        self.mixups.append(f"{message}, at {_caller()}")
        raise DeviceMixup(self.mixups[-1])


_ANY_DEVICES = {"aten::copy_", "aten::_foreach_copy_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_OBJECTS = {
    "all_gather_object",
    "barrier",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
}
"""Collectives of torch that take the CPU's tensors on purpose, over gloo."""
_NCCL_TYPES = {
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}

_thread = threading.local()


@contextmanager
def unchecked() -> Iterator[None]:
    """Operations of the device itself."""
    before = getattr(_thread, "is_unchecked", False)
    _thread.is_unchecked = True
    try:
        yield
    finally:
        _thread.is_unchecked = before


class DeviceChecks(TorchDispatchMode):
    """Check the operations of a thread and mark their results."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(_thread, "is_unchecked", False):
            return func(*args, **kwargs)
        name = func._schema.name
        # On `meta` there is nothing to mix.
        leaves = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        tensors = [leaf for leaf in leaves if real_device(leaf).type != "meta"]
        if name.startswith("c10d::") and tensors:
            self._check_collective(name, tensors)
            return func(*args, **kwargs)
        if name == "aten::set_":
            # Its result has a memory that was there, with its mark.
            return func(*args, **kwargs)
        on_cuda = self._check(func, args, kwargs, tensors)
        asked = kwargs.get("device")
        if asked is not None and names_cuda(asked):
            kwargs["device"], on_cuda = torch.device("cpu"), True
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False  # It takes a driver.
        before = {storage_id(tensor) for tensor in tensors}
        result = self._computed(func, args, kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and storage_id(leaf) not in before:
                place(leaf, on_cuda)
        return result

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        custom = OPDEFS.get(func._schema.name)
        if custom is None:
            return _kernel(func)(*args, **kwargs)
        # Written in Python: what it does is looked at, too.
        implementations = custom._backend_fns
        with self:
            return implementations.get("cuda", implementations.get(None))(*args, **kwargs)

    def _check(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
        """Raise where CUDA would; return whether what the operation makes is on CUDA."""
        if not tensors:
            # Zeros that the engine makes for a missing gradient.
            return torch._C._current_autograd_node() is not None
        name = func._schema.name
        places = [is_on_cuda(tensor) for tensor in tensors]
        if len(set(places)) == 1 or name in _ANY_DEVICES:
            return places[0]
        if name in _INDEXED:
            # The first is indexed; where there are values, they are written into it.
            values = args[2] if len(args) > 2 else kwargs.get("values")
            is_wrong = not places[0] or (
                values is not None and values.dim() > 0 and not is_on_cuda(values)
            )
        else:
            is_wrong = _mixes(tensors, places, _written(func, args))
        if is_wrong:
            shown = ", ".join(
                f"{'cuda' if place else 'cpu'}{list(tensor.shape)}"
                for tensor, place in zip(tensors, places, strict=True)
            )
            self._record.refuse(f"Expected all tensors to be on the same device: {name} of {shown}")
        return True

    def _check_collective(self, name: str, tensors: list[Tensor]) -> None:
        operation = name.removeprefix("c10d::").rstrip("_")
        places = {is_on_cuda(tensor) for tensor in tensors}
        if len(places) > 1:
            self._record.refuse(f"{operation}: tensors of one collective on cpu and cuda")
        device = "cuda" if places == {True} else "cpu"
        if places == {False} and not _is_of_objects():
            self._record.refuse(f"{operation}: a CPU tensor in a collective, which is NCCL's")
        for tensor in tensors:
            self._record.collectives[operation, device, str(tensor.dtype)] += 1
            if device == "cuda" and tensor.dtype not in _NCCL_TYPES:
                self._record.refuse(f"{operation}: NCCL has no {tensor.dtype}")
            if device == "cuda" and not tensor.is_contiguous():
                self._record.refuse(f"{operation}: NCCL takes no tensor with gaps")


def _mixes(tensors: list[Tensor], places: list[bool], written: set[int]) -> bool:
    """Whether CUDA refuses tensors of both devices."""
    from_cpu = [tensor for tensor, on_cuda in zip(tensors, places, strict=True) if not on_cuda]
    return any(tensor.dim() > 0 or id(tensor) in written for tensor in from_cpu)


def _written(func: Any, args: Sequence[Any]) -> set[int]:
    """Which of the arguments the operation writes to."""
    schema = zip(func._schema.arguments, args, strict=False)
    return {
        id(value)
        for argument, value in schema
        if argument.alias_info and argument.alias_info.is_write
    }


def _kernel(func: Any) -> Any:
    """The CPU's; it has no product of 16-bit matrices in float32."""
    return _IN_FLOAT32.get(func, func)


def _mm(a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor | None = None) -> Tensor:
    product = aten.mm.default(a.to(out_dtype), b.to(out_dtype))
    return product if out is None else out.copy_(product)


def _addmm(
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    out_dtype: torch.dtype,
    *,
    out: Tensor | None = None,
    **scales: Any,
) -> Tensor:
    total = aten.addmm.default(*(x.to(out_dtype) for x in (bias, a, b)), **scales)
    return total if out is None else out.copy_(total)


_IN_FLOAT32 = {
    **dict.fromkeys((aten.mm.dtype, aten.mm.dtype_out), _mm),
    **dict.fromkeys((aten.addmm.dtype, aten.addmm.dtype_out), _addmm),
}


def _is_of_objects() -> bool:
    return any(frame.f_code.co_name in _OBJECTS for frame in _frames("distributed_c10d.py"))


def _caller(depth: int = 3) -> str:
    """The innermost lines of the program under test."""
    frames = [*_frames("/megatron"), *_frames("/transformer_engine")] or [*_frames("/tests/")]
    lines = [f"{frame.f_code.co_filename}:{frame.f_lineno}" for frame in frames[:depth]]
    return " < ".join(line.split("site-packages/")[-1] for line in lines)


def _frames(path: str) -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        if path in frame.f_code.co_filename and "fake_cuda" not in frame.f_code.co_filename:
            yield frame
        frame = frame.f_back
