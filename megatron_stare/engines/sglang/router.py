"""sglang-router in front of the servers: it picks one for each request, and nothing else.

    engine --/generate--> router --/generate--> its members
       |                                            ^
       +---- weights, pauses, aborts, health -------+

The engine says which servers are members: those that are routable. What an answer must look like
is the same as without a router, versions included, so a server that should not have been a member
costs an attempt and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server

_POLL_S = 0.1
DROPPED_PARAMETERS = frozenset({"logit_bias", "stop", "stop_regex", "beam_width"})
"""Sampling parameters of ours that a router leaves out of what it passes on (0.3.2)."""


class Router(Server):
    """A router, spoken to like a server; requests, health and failures are its own."""

    def __init__(self, url: str, *, api_key: str | None) -> None:
        super().__init__(url, max_requests=0, api_key=api_key)
        self.problem = ""
        self._api_key = api_key
        self._members: Sequence[Server] = ()
        self._lock = asyncio.Lock()

    async def set_members(self, servers: Sequence[Server], *, deadline_s: float) -> None:
        """Have these servers and no others get requests.

        Raises:
            ServerFailure: the router does not answer, or does not take a server in time.
        """
        async with self._lock:
            found = await self._workers(deadline_s)
            urls = {server.url for server in servers}
            for url in found.keys() - urls:
                path = f"/workers/{found[url]['id']}"
                await self.call("DELETE", path, deadline_s=deadline_s)
            for url in urls - found.keys():
                body = {"url": url} | ({} if self._api_key is None else {"api_key": self._api_key})
                await self.call("POST", "/workers", body, deadline_s=deadline_s)
            await self._wait_for(urls, deadline_s)
            self._members = list(servers)
            self.max_requests = sum(server.max_requests for server in servers)

    async def check_health(self, version: int | None, *, deadline_s: float) -> None:
        """See that it answers; weights are its members' matter. Raises ServerFailure."""
        await self._workers(deadline_s)
        self._was_heard()

    async def abort(self, request_id: str, *, deadline_s: float) -> None:
        """Stop a request on whichever member has it."""
        aborts = (member.abort(request_id, deadline_s=deadline_s) for member in self._members)
        await asyncio.gather(*aborts, return_exceptions=True)

    async def abort_all(self, *, deadline_s: float) -> None:
        """Stop every request on all members."""
        aborts = (member.abort_all(deadline_s=deadline_s) for member in self._members)
        await asyncio.gather(*aborts, return_exceptions=True)

    async def _workers(self, deadline_s: float) -> dict[str, dict[str, Any]]:
        answer = await self.call("GET", "/workers", deadline_s=deadline_s)
        return {worker["url"]: worker for worker in answer["workers"]}

    async def _wait_for(self, urls: Iterable[str], deadline_s: float) -> None:
        """Members come and go in the background of the router."""
        wanted = set(urls)
        try:
            async with asyncio.timeout(deadline_s):
                while not _are_members(wanted, await self._workers(deadline_s)):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise ServerFailure(
                f"did not take {', '.join(sorted(wanted))} as its workers within {deadline_s:g} s"
            ) from None


def _are_members(urls: set[str], workers: Mapping[str, Mapping[str, Any]]) -> bool:
    return workers.keys() == urls and all(worker["is_healthy"] for worker in workers.values())
