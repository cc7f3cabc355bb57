"""What a transport promises, and the session that those which stream buckets share.

    pause -> begin -> bucket 0 -> bucket 1 -> ... -> last bucket, with the version -> end

A bucket goes to all servers at once, and the next one is filled meanwhile; the first while servers
pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol

from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.sync.buckets import Bucket
from megatron_stare.engines.sglang.sync.recipients import Recipients, Run
from megatron_stare.engines.sglang.sync.weights import Weights
from megatron_stare.errors import UserError


class Transport(Protocol):
    """Brings weights to servers."""

    def send(self, weights: Weights, recipients: Recipients) -> None:
        """Pause the servers, give them the weights and their version, have them drop their caches.

        A server that does not take them is left out of `recipients`; the others are not kept from
        them. The tensors are consumed.

        Raises:
            ValueError: a tensor is not the network's.
        """
        ...

    def close(self, run: Run) -> None:
        """Release what it holds, here and on the servers."""
        ...


Deliver = Callable[[Bucket, Server], Awaitable[None]]
"""Gives a server a bucket; raises ServerFailure or UserError."""


def stream_buckets(buckets: Iterable[Bucket], recipients: Recipients, deliver: Deliver) -> None:
    """Pause the servers, and open a session on all of them: they take the buckets, in order."""
    under_way = recipients.run(_start(_open(recipients)))
    try:
        for bucket in buckets:
            under_way = recipients.run(_hand_over(bucket, under_way, recipients, deliver))
    finally:
        recipients.run(_arrival(under_way))
    recipients.run(recipients.post("/end_weight_update"))


def bucket_options(bucket: Bucket, version: int) -> dict[str, Any]:
    """What both kinds of update are told of a bucket's place in the session."""
    return {
        "load_format": "flattened_bucket",
        "flush_cache": bucket.is_last,
        "weight_version": str(version) if bucket.is_last else None,
    }


async def _open(recipients: Recipients) -> None:
    await recipients.pause()
    await recipients.ask(lambda server: _begin(server, recipients.deadline_s))


async def _begin(server: Server, deadline_s: float) -> None:
    """Open a session; one that a trainer left open when it died is closed first."""
    try:
        await server.call("POST", "/begin_weight_update", {}, deadline_s=deadline_s)
    except UserError:
        await server.call("POST", "/end_weight_update", {}, deadline_s=deadline_s)
        await server.call("POST", "/begin_weight_update", {}, deadline_s=deadline_s)


async def _hand_over(
    bucket: Bucket,
    previous: asyncio.Task[Any],
    recipients: Recipients,
    deliver: Deliver,
) -> asyncio.Task[Any]:
    """Send a bucket on its way once what was before has arrived."""
    await previous
    return await _start(recipients.ask(lambda server: deliver(bucket, server)))


async def _start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(coroutine)


async def _arrival(under_way: asyncio.Task[Any]) -> None:
    await under_way
