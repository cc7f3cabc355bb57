"""Whether requests go through a router or straight to the servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megatron_stare.config.rollout import ServersConfig
from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.registry import registered_urls
from megatron_stare.engines.sglang.router import DROPPED_PARAMETERS, Router
from megatron_stare.errors import UserError


class Routing:
    """The router of an engine, if it has one, and what becomes of requests when it fails.

    A router that fails is out until the next sync, and requests go straight to the servers.
    """

    def __init__(
        self, config: ServersConfig, *, api_key: str | None, report: Callable[[str], None]
    ) -> None:
        self._config = config
        self._api_key = api_key
        self._report = report
        self._router: Router | None = None
        self._is_out = False

    def targets(self, servers: Sequence[Server]) -> list[Server]:
        """The router, where it works and has members; else the servers."""
        if self._router is not None and self._router.is_routable and servers:
            return [self._router]
        return list(servers)

    def leading_to(self, server: Server) -> list[Server]:
        """Where requests may have been sent that run on a server; a router may be out since."""
        return [server] if self._router is None else [server, self._router]

    async def look(self) -> None:
        """Find the router that is configured or announced.

        Raises:
            UserError: several are announced.
        """
        url = self._config.router or self._announced()
        if self._router is not None and url != self._router.url:
            await self.close()
        if self._router is None and url is not None:
            self._router, self._is_out = Router(url, api_key=self._api_key), False

    async def begin(self, members: Sequence[Server]) -> None:
        """After a sync: have the router use the servers that took part, whatever it did before.

        Raises:
            UserError: it refuses the API key.
        """
        if self._router is not None:
            await self._try(self._router, members)

    async def update(self, members: Sequence[Server]) -> None:
        """Have the router, unless it is out, use these servers. Raises as `begin`."""
        if self._router is not None and not self._is_out:
            await self._try(self._router, members)

    def check_defaults(self, server: Server, info: Mapping[str, Any]) -> None:
        """See that no default of a server's gets into requests that come through the router.

        Raises:
            UserError: one would.
        """
        preferred = info["preferred_sampling_params"] or {}
        own = {name for name, value in preferred.items() if value} & DROPPED_PARAMETERS
        if self._router is not None and own:
            raise UserError(
                f"{server.url}: was started with --preferred-sampling-params for "
                f"{', '.join(sorted(own))}, which requests through a router cannot override; "
                "expected none of these, or no router"
            )

    async def close(self) -> None:
        """Close the connections to the router, and know none."""
        if self._router is not None:
            await self._router.close()
            self._router = None

    async def _try(self, router: Router, members: Sequence[Server]) -> None:
        try:
            await router.set_members(members, deadline_s=self._config.health_deadline_s)
        except ServerFailure as failure:
            router.is_routable = False
            if not self._is_out:
                self._report(
                    f"router {router.url}: {failure}; "
                    "until the next weights, requests go straight to the servers"
                )
            self._is_out = True
        else:
            if router.problem and not router.is_routable:
                self._report(f"router {router.url}: takes requests again")
            router.is_routable, router.problem, self._is_out = True, "", False

    def _announced(self) -> str | None:
        if self._config.registry is None:
            return None
        urls = registered_urls(self._config.registry, "router")
        if len(urls) > 1:
            raise UserError(
                f"rollout.servers.registry={self._config.registry}: has the routers "
                f"{', '.join(urls)}, expected one at most"
            )
        return urls[0] if urls else None
