"""The servers of one sync: asked all at once, each left out at its first failure."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.pool import RollCall
from megatron_stare.engines.sglang.sync.checksums import checksum_key
from megatron_stare.engines.sglang.sync.weights import Shapes, check_network
from megatron_stare.errors import UserError

_FAREWELL_S = 2.0
"""Seconds for a call that nothing depends on."""


class Run(Protocol):
    """Runs a coroutine to its end in the loop of the servers' connections, in another thread."""

    def __call__[T](self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """What the coroutine returns."""
        ...


class Recipients:
    """Servers that take part in a sync: those that answered.

    servers   those still in it
    lost      why each other one is not
    faithful  those that have all of what the sync before gave them
    paused_s  seconds from the call to pause until all of them went on
    run       runs coroutines; what they began goes on between two runs
    """

    def __init__(
        self, answers: RollCall, *, last_version: int, run: Run, deadline_s: float
    ) -> None:
        self.servers: list[Server] = []
        self.lost: dict[Server, str] = {}
        self.faithful: set[Server] = set()
        self.run = run
        self.deadline_s = deadline_s
        self.paused_s = 0.0
        self._paused: list[Server] = []
        self._paused_at = 0.0
        for server, answer in answers.items():
            if isinstance(answer, ServerFailure):
                self.lost[server] = str(answer)
                continue
            self.servers.append(server)
            # Another version: it may have been restarted.
            if server.is_routable and answer["weight_version"] == str(last_version):
                self.faithful.add(server)

    async def ask[T](self, question: Callable[[Server], Awaitable[T]]) -> dict[Server, T]:
        """Ask every server at once; the answers of those that gave one."""
        servers = list(self.servers)
        answers = await asyncio.gather(
            *(question(server) for server in servers), return_exceptions=True
        )
        given: dict[Server, T] = {}
        for server, answer in zip(servers, answers, strict=True):
            if isinstance(answer, ServerFailure | UserError):
                self._leave_out(server, str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                given[server] = answer
        return given

    async def post(self, path: str, **body: Any) -> dict[Server, Any]:
        """Send every server the same; the answers of those that gave one."""
        return await self.ask(
            lambda server: server.call("POST", path, body, deadline_s=self.deadline_s)
        )

    async def check_networks(self, shapes: Shapes, *, deadline_s: float) -> list[Server]:
        """Leave out those that have another network; the faithful ones are not asked.

        Returns those whose network cannot be seen from here.
        """

        async def check(server: Server) -> bool:
            if server in self.faithful:
                return True
            # Its path as it was started with: that of /model_info is where weights came from last.
            started = await server.call("GET", "/server_info", deadline_s=deadline_s)
            return check_network(Path(started["model_path"]), shapes)

        checked = await self.ask(check)
        return [server for server, is_checked in checked.items() if not is_checked]

    async def pause(self) -> None:
        """Have all of them stop: what runs is aborted, what comes waits."""
        self._paused, self._paused_at = list(self.servers), time.perf_counter()
        await self.post("/pause_generation", mode="abort")

    async def resume(self) -> None:
        """Have every server go on that was told to pause, also those that were left out."""
        left_out = [server for server in self._paused if server in self.lost]
        self._paused = []
        path, body = "/continue_generation", {"torch_empty_cache": False}
        await asyncio.gather(
            self.post(path, **body), *(bid_farewell(server, path, **body) for server in left_out)
        )
        self.paused_s = time.perf_counter() - self._paused_at

    async def checksums(self, skipped: Sequence[str]) -> dict[Server, dict[str, str]]:
        """What each server says that it has, by `checksum_key`."""
        found = await self.post(
            "/weights_checker", action="checksum", skip_tensor_list=list(skipped)
        )
        return {server: _by_key(answer["ranks"]) for server, answer in found.items()}

    def _leave_out(self, server: Server, reason: str) -> None:
        if server in self.servers:
            self.servers.remove(server)
            self.lost[server] = reason


async def bid_farewell(server: Server, path: str, **body: Any) -> None:
    """Tell a server something that it may not answer; if it is only silent, it reads it later."""
    with contextlib.suppress(ServerFailure, UserError):
        await server.call("POST", path, body, deadline_s=_FAREWELL_S)


def _by_key(ranks: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        checksum_key(name, info["parallelism_info"][0]["tp_rank"]): checksum
        for info in ranks
        for name, checksum in info["checksums"].items()
    }
