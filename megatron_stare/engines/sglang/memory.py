"""Memory of GPUs that servers share with the trainer, in turns.

    generating --give up--> without --take weights--> loading --take the rest--> generating
                               |                                                     |
    trainer:                learning                                       (its own is off the GPU)

A server that is asked for memory which it did not give up ends. So what each one gave up is kept
here; one that came up again since then, and so has other weights, gave up nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.errors import UserError

_WEIGHTS = ("weights",)
_REST = ("kv_cache", "cuda_graph")


class SharedMemory:
    """What servers gave up, and which version of the weights they had."""

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._without_weights: dict[Server, str] = {}
        self._without_rest: set[Server] = set()

    async def give_up(self, servers: Sequence[Server]) -> None:
        """Have servers stop what they do, and give up all of it.

        Raises:
            UserError: one does not: the trainer would find no room.
        """
        await asyncio.gather(*(self._give_up(server) for server in servers))

    async def take_weights(self) -> None:
        """Have them take what new weights need; the contents are undefined."""
        without, self._without_weights = self._without_weights, {}
        taken = await asyncio.gather(
            *(self._take_weights(server, version) for server, version in without.items())
        )
        self._without_rest |= {s for s, took in zip(without, taken, strict=True) if took}

    async def take_rest(self, routable: Sequence[Server]) -> None:
        """Have those that took new weights take what it needs to generate.

        One that did not take them is asked when it has, after a later sync.

        Raises:
            UserError: one of them does not.
        """
        servers = self._without_rest.intersection(routable)
        self._without_rest -= servers
        path = "/resume_memory_occupation"
        await asyncio.gather(*(self._post(server, path, tags=_REST) for server in servers))

    async def _give_up(self, server: Server) -> None:
        # A server that still generates would end.
        await self._post(server, "/pause_generation", mode="abort")
        try:
            version = await self._version(server)
        except ServerFailure as failure:
            raise _out_of_turn(server, failure) from None
        await self._post(server, "/release_memory_occupation", tags=[*_WEIGHTS, *_REST])
        self._without_weights[server] = version

    async def _take_weights(self, server: Server, version: str) -> bool:
        try:
            is_the_same = await self._version(server) == version
        except ServerFailure:
            return False
        if is_the_same:
            await self._post(server, "/resume_memory_occupation", tags=_WEIGHTS)
        return is_the_same

    async def _version(self, server: Server) -> str:
        info = await server.call("GET", "/model_info", deadline_s=self._deadline_s)
        return info["weight_version"]

    async def _post(self, server: Server, path: str, **body: Any) -> None:
        try:
            await server.call("POST", path, body, deadline_s=self._deadline_s)
        except ServerFailure as failure:
            raise _out_of_turn(server, failure) from None


def _out_of_turn(server: Server, failure: ServerFailure) -> UserError:
    return UserError(
        f"{server.url}: {failure}; with rollout.colocated=true every server must take turns"
    )
