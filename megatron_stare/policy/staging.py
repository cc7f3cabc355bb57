"""Host memory that tensors are copied to before they are written."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from megatron_stare.weights.host_memory import host_memory


class Staging:
    """The same memory for every save: the first use of fresh memory costs more than the copy."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    def copy(self, name: Hashable, tensor: Tensor) -> Tensor:
        """A contiguous copy with a storage of its own, until the next of this name."""
        buffer = self._buffers.get(name)
        if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
            memory = host_memory(tensor.nbytes)
            buffer = self._buffers[name] = memory.view(tensor.dtype).view(tensor.shape)
        return buffer.copy_(tensor.detach())
