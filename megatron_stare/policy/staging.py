"""Host memory that tensors are copied to before they are written."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_stare.system.host_memory import host_memory

_PIECE_BYTES = 1 << 26


class Staging:
    """The same memory for every save: the first use of fresh memory costs more than the copy."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}
        self._from_gpu: CopiesFromGpu | None = None

    def begin(self, device: torch.device) -> None:
        """Have the next copies be of what tensors are after all that `device` was asked for."""
        if device.type == "cuda":
            self._from_gpu = self._from_gpu or CopiesFromGpu.on(device)
            self._from_gpu.follow(torch.cuda.current_stream(device))

    def copy(self, name: Hashable, tensor: Tensor) -> Tensor:
        """A contiguous copy with a storage of its own, until the next of this name."""
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            memory = host_memory(tensor.nbytes)
            buffer = self._buffers[name] = memory.view(tensor.dtype).view(tensor.shape)
        if tensor.is_cuda and self._from_gpu is not None:
            self._from_gpu.copy(tensor, buffer)
            return buffer
        return buffer.copy_(tensor.detach())


class CopiesFromGpu:
    """Copies to memory of the host that is not pinned, beside the kernels of the step that goes on.

        piece 0   comes from the GPU | goes to its place  | ...
        piece 1                      | comes from the GPU | ...

    By itself CUDA would have such a copy wait behind those kernels, and be several times slower.

    Args:
        stream: what copies are asked of.
        pieces: uint8 `[n]` of pinned memory, two of them.
    """

    def __init__(self, stream: Any, pieces: Sequence[Tensor]) -> None:
        self._stream = stream
        self._pieces = pieces

    @classmethod
    def on(cls, device: torch.device) -> CopiesFromGpu:
        """On a stream of its own."""
        pieces = [torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        return cls(torch.cuda.Stream(device), pieces)

    def follow(self, stream: Any) -> None:
        """Copies come after what another stream was asked for until now."""
        self._stream.wait_stream(stream)

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Fill a contiguous target with a contiguous source of its shape and type."""
        size = len(self._pieces[0])
        parts = _bytes_of(source).split(size)
        arrived = self._ask_for(0, parts[0])
        for number, place in enumerate(_bytes_of(target).split(size)):
            piece, event = arrived
            if number + 1 < len(parts):
                arrived = self._ask_for(number + 1, parts[number + 1])
            event.synchronize()
            place.copy_(piece)

    def _ask_for(self, number: int, part: Tensor) -> tuple[Tensor, Any]:
        """The piece that a part comes to, and the event that it has come."""
        piece = self._pieces[number % len(self._pieces)][: len(part)]
        with torch.cuda.stream(self._stream):
            piece.copy_(part, non_blocking=True)
        return piece, self._stream.record_event()


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)
