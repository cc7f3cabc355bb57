"""Weights by shared memory: a bucket lies there, and HTTP brings servers on this machine its name.

What is sent is a pickled dictionary in base64, one for each rank of a server. Handles of the GPU's
memory are not (docs/decisions/0019-shared-memory-not-cuda-ipc.md).

The server admits few classes into a pickle, and knows tensors by the functions that rebuild them;
nothing of SGLang is needed here.
"""

from __future__ import annotations

import base64
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from megatron_stare.engines.sglang.addresses import is_loopback
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.sync.buckets import Bucket, buffer_bytes, fill_buckets
from megatron_stare.engines.sglang.sync.recipients import Recipients, Run
from megatron_stare.engines.sglang.sync.shared_memory import SharedBuffer
from megatron_stare.engines.sglang.sync.transport import bucket_options, stream_buckets
from megatron_stare.engines.sglang.sync.weights import Weights
from megatron_stare.errors import UserError

Reducers = dict[type, Callable[[Any], tuple[Any, ...]]]
"""How objects of some classes are pickled: a function of the receiver's, and its arguments."""


class TensorTransport:
    """See `Transport`. Buckets of `bucket_bytes` to servers of so many ranks."""

    def __init__(self, *, bucket_bytes: int, num_ranks: int) -> None:
        self._bucket_bytes = bucket_bytes
        self._num_ranks = num_ranks
        self._shared: list[SharedBuffer] = []

    def send(self, weights: Weights, recipients: Recipients) -> None:
        """See `Transport`. Raises UserError, too, where there is no room for shared memory."""
        if not self._shared:
            size = buffer_bytes(self._bucket_bytes, weights.max_bytes)
            self._shared = [SharedBuffer(size), SharedBuffer(size)]
        buffers = [shared.tensor for shared in self._shared]
        buckets = fill_buckets(weights.tensors, buffers, weights.dtype, weights.checksums.add)

        async def deliver(bucket: Bucket, server: Server) -> None:
            with self._payloads(bucket, server.url) as payloads:
                body = {
                    "serialized_named_tensors": payloads,
                    **bucket_options(bucket, weights.version),
                }
                path = "/update_weights_from_tensor"
                deadline_s = recipients.deadline_s
                await server.call("POST", path, body, deadline_s=deadline_s)

        stream_buckets(buckets, recipients, deliver)

    def close(self, run: Run) -> None:
        """See `Transport`."""
        while self._shared:
            self._shared.pop().close()

    @contextmanager
    def _payloads(self, bucket: Bucket, url: str) -> Iterator[list[str]]:
        """What each rank of a server unpickles, good for one time inside the block."""
        if not is_loopback(url):
            raise UserError(
                f"rollout.servers.transport=tensor: {url} is not on loopback; expected servers on "
                "rank 0's machine, or transport disk or distributed"
            )
        shared = next(shared for shared in self._shared if shared.tensor is bucket.buffer)
        with shared.named(self._num_ranks) as names:
            yield [_pickled(bucket, _by_name(name, bucket.buffer.numel())) for name in names]


def _pickled(bucket: Bucket, reducers: Reducers) -> str:
    """The bucket with its tensors' places, in base64."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = reducers
    pickler.dump({"flattened_tensor": bucket.flat, "metadata": list(_places(bucket))})
    return base64.b64encode(buffer.getbuffer()).decode("ascii")


def _places(bucket: Bucket) -> Iterator[SimpleNamespace]:
    """Where each tensor is, in bytes, with the fields of SGLang's FlattenedTensorMetadata."""
    itemsize = bucket.dtype.itemsize
    sizes = [torch.Size(shape).numel() * itemsize for shape in bucket.shapes]
    for name, shape, size, end in zip(
        bucket.names, bucket.shapes, sizes, accumulate(sizes), strict=True
    ):
        yield SimpleNamespace(
            name=name,
            shape=torch.Size(shape),
            dtype=bucket.dtype,
            start_idx=end - size,
            end_idx=end,
            numel=size,
        )


def _by_name(name: str, size: int) -> Reducers:
    """By a name in shared memory; the receiver's own daemon is to look after it."""
    opened = (torch.UntypedStorage, b"", name.encode(), size)
    return {
        **_STANDARD,
        torch.UntypedStorage: lambda _: (reductions.rebuild_storage_filename, opened),
    }


_STANDARD: Reducers = {
    Tensor: reductions.reduce_tensor,
    torch.storage.TypedStorage: reductions.reduce_typed_storage,
}
