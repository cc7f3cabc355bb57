"""Tensors one after the other in flat buckets, which two buffers hold in turn.

    buffer 0   filled | on its way |  filled  | ...
    buffer 1          |   filled   | on its way | ...

so the memory of a sync is that of two buckets, whatever the size of the model. Servers wait for the
first bucket, so that one is small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import torch
from torch import Tensor

_ALIGNMENT = 64
_FIRST = 1 / 4
"""Of a buffer: how much of it the first bucket fills, if it is not of a single tensor."""


@dataclass(slots=True)
class Bucket:
    """Tensors of one dtype, contiguous in `buffer`, uint8 [capacity], of which `num_bytes` count.

    share    of the buffer that it fills at most
    is_last  whether the sync ends with it
    """

    buffer: Tensor
    dtype: torch.dtype
    share: float = 1.0
    names: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    num_bytes: int = 0
    is_last: bool = False

    @property
    def flat(self) -> Tensor:
        """The bytes of its tensors, uint8 [num_bytes]."""
        return self.buffer[: self.num_bytes]

    def has_room_for(self, tensor: Tensor) -> bool:
        """Whether it takes this tensor too."""
        num_bytes = self.num_bytes + self._size(tensor)
        return num_bytes <= self.share * self.buffer.numel() or not self.names

    def add(self, name: str, tensor: Tensor) -> None:
        """Copy a tensor of its dtype into it."""
        end = self.num_bytes + self._size(tensor)
        self.buffer[self.num_bytes : end].view(self.dtype).view(tensor.shape).copy_(tensor)
        self.names.append(name)
        self.shapes.append(tuple(tensor.shape))
        self.num_bytes = end

    def _size(self, tensor: Tensor) -> int:
        return tensor.numel() * self.dtype.itemsize


def buffer_bytes(bucket_bytes: int, largest_bytes: int) -> int:
    """Of a buffer for buckets of this size that holds the largest tensor; aligned for any dtype."""
    return -(-max(bucket_bytes, largest_bytes) // _ALIGNMENT) * _ALIGNMENT


def fill_buckets(
    tensors: Iterable[tuple[str, Tensor]],
    buffers: Sequence[Tensor],
    dtype: torch.dtype,
    on_stored: Callable[[str, Tensor], None],
) -> Iterator[Bucket]:
    """Buckets of the tensors in `dtype`; two buffers: one is filled while the other is used.

    `on_stored` gets every tensor in `dtype`, on the device that it came on. Buffers must hold the
    largest one.
    """
    turns = cycle(buffers)
    bucket = Bucket(next(turns), dtype, share=_FIRST)
    for name, tensor in tensors:
        if not bucket.has_room_for(tensor):
            yield bucket
            bucket = Bucket(next(turns), dtype)
        converted = tensor.detach().to(dtype)
        bucket.add(name, converted)
        on_stored(name, converted)
    bucket.is_last = True
    yield bucket
