"""A process group of this process and the ranks of one server, beside the trainer's own world.

The other end is made by SGLang's `init_custom_process_group`: a store at an address, prefixes of
its keys by the group's name, and a backend on it. Nothing of it is known to the default group here.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor
from torch._C import _distributed_c10d as c10d

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.errors import UserError
from megatron_stare.system.timeouts import COLLECTIVE_TIMEOUT

_MAX_CTAS = 4


@dataclass(slots=True)
class ServerGroup:
    """A process group of this process and a server's ranks; `store` is kept for it."""

    name: str
    store: c10d.TCPStore
    backend: Any

    async def broadcast(self, flat: Tensor, deadline_s: float) -> None:
        """Send a bucket to the server's ranks. Raises ServerFailure."""
        try:
            await asyncio.to_thread(self._broadcast, flat, deadline_s)
        except (RuntimeError, ValueError) as error:
            raise ServerFailure(f"the broadcast of weights broke ({error})") from None

    def abort(self) -> None:
        """Close the connections, so that nobody waits for the other."""
        self.backend.abort()

    def _broadcast(self, flat: Tensor, deadline_s: float) -> None:
        options = c10d.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timedelta(seconds=deadline_s)
        if not flat.is_cuda:
            self.backend.broadcast([flat], options).wait(options.timeout)
            return
        # NCCL's `wait` holds up a stream: not the one on which the next bucket is being filled.
        stream = torch.cuda.Stream(flat.device)
        stream.wait_stream(torch.cuda.default_stream(flat.device))
        with torch.cuda.stream(stream):
            self.backend.broadcast([flat], options).wait()
        stream.synchronize()


async def make_group(
    server: Server, host: str, num_ranks: int, backend: str, connect_s: float
) -> ServerGroup:
    """A group with rank 0 here, and ranks 1 to `num_ranks` there."""
    name = f"weights-{uuid4().hex[:12]}"
    store = _listen(host, connect_s)
    body = {
        "master_address": host,
        "master_port": store.port,
        "rank_offset": 1,
        "world_size": 1 + num_ranks,
        "group_name": name,
        "backend": backend,
    }
    make = asyncio.to_thread(_connect, store, name, 1 + num_ranks, backend, host, connect_s)
    call = server.call("POST", "/init_weights_update_group", body, deadline_s=connect_s)
    try:
        _, group = await asyncio.gather(call, make)
    except (RuntimeError, ValueError) as error:
        raise ServerFailure(f"no process group with it came about ({error})") from None
    return ServerGroup(name, store, group)


def _listen(host: str, timeout_s: float) -> c10d.TCPStore:
    """A store at this address alone, on a free port: by itself it would listen on all of them."""
    try:
        listener = socket.create_server((host, 0))
    except OSError as error:
        raise UserError(
            f"rollout.servers.sync_host: cannot listen on {host!r} ({error}); expected an address "
            "of this machine that the servers can reach"
        ) from None
    port = listener.getsockname()[1]
    return c10d.TCPStore(
        host,
        port,
        is_master=True,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _connect(
    store: c10d.TCPStore, name: str, world_size: int, backend: str, host: str, timeout_s: float
) -> Any:
    """This process's end, rank 0, of what SGLang's `init_custom_process_group` makes there."""
    prefixed = c10d.PrefixStore(f"{name}/", c10d.PrefixStore(name, store))
    if backend == "nccl":
        prefixed, options = c10d.PrefixStore("cuda/", prefixed), nccl_options()
        return c10d.ProcessGroupNCCL(prefixed, 0, world_size, options)
    options: Any = c10d.ProcessGroupGloo._Options()  # pyright: ignore[reportAttributeAccessIssue]
    options._devices = [c10d.ProcessGroupGloo.create_device(hostname=host)]
    options._threads = 1
    options._timeout = timedelta(seconds=timeout_s)
    return c10d.ProcessGroupGloo(c10d.PrefixStore("cpu/", prefixed), 0, world_size, options)


def nccl_options() -> Any:
    """Of a group with a server: nothing about it may end this process, or fill its GPU."""
    options = c10d.ProcessGroupNCCL.Options()
    # When this is over NCCL ends the process, whatever is asked of a broadcast: the deadline of a
    # server is that of its HTTP call, after which the group is aborted.
    options._timeout = COLLECTIVE_TIMEOUT
    # Ranks meet in the first broadcast: if a server has died, it can be aborted there, too.
    options.config.blocking = 0
    # Of the GPU, so that many servers at once leave room for computing.
    options.config.max_ctas = _MAX_CTAS
    return options
