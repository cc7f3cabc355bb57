"""The servers of an engine: found, checked, given weights, compared."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_stare.config import ServersConfig
from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.checksums import Checksums
from megatron_stare.rollout.sglang.client import Server, ServerFailure
from megatron_stare.rollout.sglang.disk_sync import load_weights
from megatron_stare.rollout.sglang.registry import registered_urls

_POLL_S = 1.0
_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What all servers of an engine have in common."""

    dtype: str
    device: str
    tensor_parallel: int

    @property
    def hashes_like_checksums(self) -> bool:
        """Whether `Checksums` are computed as this kind computes its own."""
        return self.device == "cpu" and self.tensor_parallel == 1


class ServerPool:
    """Servers by URL. `report` is told of those that are left out, and why.

    With a registration folder, servers may come and go between syncs.
    """

    def __init__(
        self, config: ServersConfig, *, model_type: str, report: Callable[[str], None]
    ) -> None:
        self._config = config
        self._model_type = model_type
        self._report = report
        self._servers: dict[str, Server] = {}
        self._kind: _Kind | None = None

    @property
    def servers(self) -> list[Server]:
        """Every server known, routable or not."""
        return list(self._servers.values())

    @property
    def dtype(self) -> str:
        """Of the servers' weights, `float32` or `bfloat16`; after `connect`."""
        assert self._kind is not None
        return self._kind.dtype

    async def connect(self) -> None:
        """Wait for the servers: all of the given URLs, or the first in the folder.

        Raises:
            UserError: they do not answer in time, or are not of one kind with the trainer's model.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._config.start_deadline_s
        while True:
            await self._refresh()
            missing = [url for url in self._config.urls if url not in self._servers]
            if self._servers and not missing:
                return
            if clock() > deadline:
                raise UserError(
                    f"rollout.servers: {', '.join(missing) or self._config.registry}: no SGLang "
                    f"server answered within start_deadline_s={self._config.start_deadline_s:g} s"
                )
            await asyncio.sleep(_POLL_S)

    async def load(self, folder: Path, version: int, checksums: Checksums) -> None:
        """Have every server load a folder; those that did, and compare well, are routable.

        Raises:
            UserError: none did.
        """
        for server in self.servers:
            server.is_routable = False
        await self._refresh()
        results = await asyncio.gather(
            *(self._load_one(server, folder, version) for server in self.servers)
        )
        found = {
            server: ranks
            for server, ranks in zip(self.servers, results, strict=True)
            if ranks is not None
        }
        self._compare(found, checksums)
        if not any(server.is_routable for server in self.servers):
            raise UserError(f"weights {version}: {self.explain()}")

    def explain(self) -> str:
        """What is wrong with each server, where none is routable."""
        problems = "; ".join(f"{server.url}: {server.problem}" for server in self.servers)
        return f"no SGLang server is left to generate: {problems}"

    async def close(self) -> None:
        """Close the connections."""
        for server in self.servers:
            await server.close()

    async def _refresh(self) -> None:
        """Add servers that answer and are not known yet; forget those no longer registered."""
        urls = list(self._config.urls)
        if self._config.registry is not None:
            urls = registered_urls(self._config.registry)
        for url in self._servers.keys() - set(urls):
            await self._servers.pop(url).close()
        for url in urls:
            if url not in self._servers:
                await self._add(url)

    async def _add(self, url: str) -> None:
        server = self._servers[url] = Server(url, max_requests=self._config.max_requests)
        try:
            kind = await self._examine(server)
        except ServerFailure:
            await self._servers.pop(url).close()
            return
        if self._kind is not None and kind != self._kind:
            raise UserError(f"{url}: {kind}, expected servers of one kind, {self._kind}")
        self._kind = kind

    async def _examine(self, server: Server) -> _Kind:
        deadline_s = self._config.health_deadline_s
        info = await server.call("GET", "/model_info", deadline_s=deadline_s)
        if info["model_type"] != self._model_type:
            raise UserError(
                f"{server.url}: serves a model of type {info['model_type']!r} "
                f"({info['model_path']}), expected {self._model_type!r} as in model.path"
            )
        info = await server.call("GET", "/server_info", deadline_s=deadline_s)
        if info["dtype"] not in _DTYPES:
            raise UserError(
                f"{server.url}: was started with --dtype {info['dtype']}, expected one of "
                f"{', '.join(_DTYPES)}: weights are sent in it"
            )
        return _Kind(info["dtype"], info["device"], info["tp_size"])

    async def _load_one(self, server: Server, folder: Path, version: int) -> dict[str, str] | None:
        try:
            return await load_weights(
                server, folder, version, deadline_s=self._config.sync_deadline_s
            )
        except (ServerFailure, UserError) as error:
            self._leave_out(server, f"did not take weights {version}: {error}")
            return None

    def _compare(self, found: Mapping[Server, dict[str, str]], checksums: Checksums) -> None:
        assert self._kind is not None
        if self._kind.hashes_like_checksums:
            for server, tensors in found.items():
                self._judge(server, checksums.differing(tensors))
            return
        reference, _ = Counter(tuple(sorted(t.items())) for t in found.values()).most_common(1)[0]
        for server, tensors in found.items():
            self._judge(server, [n for n, checksum in reference if tensors.get(n) != checksum])

    def _judge(self, server: Server, differing: list[str]) -> None:
        if differing:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            self._leave_out(server, f"its {differing[0]}{more} is not what was sent")
        else:
            server.is_routable = True

    def _leave_out(self, server: Server, problem: str) -> None:
        server.problem = problem
        self._report(f"{server.url}: out until the next weights: {problem}")
