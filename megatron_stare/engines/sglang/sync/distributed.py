"""Weights by a process group: this process, rank 0, broadcasts buckets to the ranks of a server.

Each server has a group of its own. A group breaks as a whole when one of its ranks does, and a rank
of it that waits for a silent one waits for half an hour: servers that shared one would share that
fate (docs/decisions/0008-a-process-group-for-each-server.md).

A group lasts from sync to sync, as long as its server keeps what it was given. Stores and
connections are this module's own: nothing of them is known to the trainer's world.
"""

from __future__ import annotations

import asyncio
from itertools import chain

import torch
from torch import Tensor

from megatron_stare.engines.sglang.addresses import is_loopback
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.sync.buckets import Bucket, buffer_bytes, fill_buckets
from megatron_stare.engines.sglang.sync.process_group import ServerGroup, make_group
from megatron_stare.engines.sglang.sync.recipients import Recipients, Run, bid_farewell
from megatron_stare.engines.sglang.sync.transport import bucket_options, stream_buckets
from megatron_stare.engines.sglang.sync.weights import Weights
from megatron_stare.errors import UserError
from megatron_stare.system.host_memory import host_memory


class DistributedTransport:
    """See `Transport`. Buckets of `bucket_bytes` to servers of so many ranks on `server_device`.

    `host` is an address of this machine that the servers can reach; None is loopback, for servers
    on loopback. A group must be made within `connect_s`.
    """

    def __init__(
        self,
        *,
        bucket_bytes: int,
        num_ranks: int,
        server_device: str,
        host: str | None,
        connect_s: float,
    ) -> None:
        self._bucket_bytes = bucket_bytes
        self._num_ranks = num_ranks
        self._server_device = server_device
        self._host = host
        self._connect_s = connect_s
        self._buffers: list[Tensor] = []
        self._groups: dict[Server, ServerGroup] = {}

    def send(self, weights: Weights, recipients: Recipients) -> None:
        """See `Transport`. Raises UserError, too, where servers cannot reach this machine."""
        tensors = iter(weights.tensors)
        first = next(tensors)
        device = first[1].device
        on_gpus = self._server_device == "cuda" and device.type == "cuda"
        if not self._buffers:
            size = buffer_bytes(self._bucket_bytes, weights.max_bytes)
            self._buffers = [
                torch.empty(size, dtype=torch.uint8, device=device)
                if on_gpus
                else host_memory(size)
                for _ in range(2)
            ]
        recipients.run(self._join(recipients, "nccl" if on_gpus else "gloo"))
        buckets = fill_buckets(
            chain([first], tensors), self._buffers, weights.dtype, weights.checksums.add
        )

        async def deliver(bucket: Bucket, server: Server) -> None:
            group = self._groups[server]
            body = {
                "names": bucket.names,
                "dtypes": [str(bucket.dtype).removeprefix("torch.")] * len(bucket.names),
                "shapes": bucket.shapes,
                "group_name": group.name,
                **bucket_options(bucket, weights.version),
            }
            path = "/update_weights_from_distributed"
            deadline_s = recipients.deadline_s
            call = server.call("POST", path, body, deadline_s=deadline_s)
            try:
                await asyncio.gather(call, group.broadcast(bucket.flat, deadline_s))
            except Exception:
                self._groups.pop(server).abort()
                raise

        stream_buckets(buckets, recipients, deliver)

    def close(self, run: Run) -> None:
        """See `Transport`."""
        run(self._leave(list(self._groups)))
        self._buffers = []

    async def _join(self, recipients: Recipients, backend: str) -> None:
        """Have a group with every server; groups of servers that may have lost theirs are new."""
        await self._leave([s for s in self._groups if s not in recipients.faithful])
        joined = await recipients.ask(lambda server: self._group_with(server, backend))
        self._groups |= joined

    async def _group_with(self, server: Server, backend: str) -> ServerGroup:
        if server in self._groups:
            return self._groups[server]
        host = self._host or _loopback_for(server.url)
        return await make_group(server, host, self._num_ranks, backend, self._connect_s)

    async def _leave(self, servers: list[Server]) -> None:
        await asyncio.gather(*(_dissolve(server, self._groups.pop(server)) for server in servers))


async def _dissolve(server: Server, group: ServerGroup) -> None:
    group.abort()
    await bid_farewell(server, "/destroy_weights_update_group", group_name=group.name)


def _loopback_for(url: str) -> str:
    if not is_loopback(url):
        raise UserError(
            f"rollout.servers.sync_host is not set and {url} is not on loopback: expected an "
            "address of this machine that the servers can reach"
        )
    return "127.0.0.1"
