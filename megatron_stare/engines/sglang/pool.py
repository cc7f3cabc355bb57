"""The servers of an engine: found, seen to be of one kind, left out when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import ServersConfig
from megatron_stare.engines.sglang import tempering
from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import GoneError, Server
from megatron_stare.engines.sglang.registry import registered_urls
from megatron_stare.engines.sglang.restart import Restarts
from megatron_stare.engines.sglang.routing import Routing
from megatron_stare.engines.sglang.tokenizers import check_tokenizer
from megatron_stare.errors import UserError
from megatron_stare.launch.environment import read_api_key

_POLL_S = 1.0
_DTYPES = ("float32", "bfloat16")

RollCall = Mapping[Server, Mapping[str, Any] | ServerFailure]
"""What servers answered to /model_info, or how they failed to."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What all servers of an engine have in common."""

    dtype: str
    device: str
    tensor_parallel: int


class ServerPool:
    """Servers by URL. `report` is told of those that are left out, and why.

    With a registration folder, servers may come and go between syncs. `log_dir` takes what restart
    commands print. Where a rule `moves_temperature`, servers have to take it.

    Raises UserError where the environment lacks the API key.
    """

    def __init__(
        self,
        config: ServersConfig,
        *,
        model_type: str,
        tokenizer: PreTrainedTokenizerFast,
        log_dir: Path,
        report: Callable[[str], None],
        moves_temperature: bool = False,
    ) -> None:
        self._config = config
        self._moves_temperature = moves_temperature
        self._model_type = model_type
        self._tokenizer = tokenizer
        self.report = report
        self._api_key = read_api_key(config.api_key_env, option="rollout.servers.api_key_env")
        self._routing = Routing(config, api_key=self._api_key, report=report)
        self._restarts = Restarts(config.restart_command, log_dir)
        self._servers: dict[str, Server] = {}
        self._reported: set[Server] = set()
        """Those that are left out, until the next sync: two examinations may find the same."""
        self._absent: dict[str, str] = {}
        """URLs where no server answers yet, with the problem."""
        self._kind: Kind | None = None

    @property
    def servers(self) -> list[Server]:
        """Every server known, routable or not."""
        return list(self._servers.values())

    @property
    def routable(self) -> list[Server]:
        """Those that have the engine's weights, and answer."""
        return [server for server in self.servers if server.is_routable]

    @property
    def targets(self) -> list[Server]:
        """Where requests go: to the router, where one works, else to each routable server."""
        return self._routing.targets(self.routable)

    @property
    def watched(self) -> list[Server]:
        """Everything that requests may be running on."""
        return list({*self.routable, *self.targets})

    @property
    def kind(self) -> Kind:
        """Of all servers; after `connect`."""
        assert self._kind is not None
        return self._kind

    def leading_to(self, server: Server) -> list[Server]:
        """Everything whose requests may be running on a server."""
        return self._routing.leading_to(server)

    async def connect(self) -> None:
        """Wait for the servers: all of the given URLs, or `min_servers` in the folder.

        Raises:
            UserError: they do not answer in time, or are not of one kind with the trainer's model.
        """
        num_expected = len(self._config.urls) or self._config.min_servers

        async def missing() -> str | None:
            await self._look()
            if len(self._servers) >= num_expected:
                return None
            return (
                f"rollout.servers: {self._explain_absent()} within start_deadline_s="
                f"{self._config.start_deadline_s:g} s; {len(self._servers)} of {num_expected} "
                "answered"
            )

        await self._wait_while(missing)

    async def refresh(self) -> RollCall:
        """Before a sync: look for new servers, and wait until `min_servers` answer.

        Raises:
            UserError: they do not in time, or a new one is of another kind.
        """
        answers: RollCall = {}
        self._reported.clear()

        async def missing() -> str | None:
            nonlocal answers
            await self._look()
            answers = await self._call_the_roll()
            problems = {
                server.url: str(answer)
                for server, answer in answers.items()
                if isinstance(answer, ServerFailure)
            }
            for url in problems:
                self._restarts.begin(url)
            if len(answers) - len(problems) >= self._config.min_servers:
                return None
            return (
                f"rollout.servers.min_servers={self._config.min_servers}: fewer SGLang servers "
                f"answered for start_deadline_s={self._config.start_deadline_s:g} s: "
                + _listed(self._absent | problems)
            )

        await self._wait_while(missing)
        return answers

    async def _wait_while(self, missing: Callable[[], Awaitable[str | None]]) -> None:
        """Look again and again; UserError with what is missing after `start_deadline_s`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._config.start_deadline_s
        while problem := await missing():
            if clock() > deadline:
                raise UserError(problem)
            await asyncio.sleep(_POLL_S)

    async def settle(self, version: int) -> None:
        """After a sync: see that enough servers have the weights, and have the router use them.

        Raises:
            UserError: fewer than `min_servers` have them.
        """
        for server in self.routable:
            self._restarts.forget(server.url)
        if len(self.routable) < self._config.min_servers:
            raise UserError(f"weights {version}: {self.explain()}")
        await self._routing.begin(self.routable)

    async def examine(self, target: Server, version: int) -> list[Server]:
        """See whether a target that failed works after all; leave out the server that does not.

        Returns those that do not work, but are there: answers that are awaited may never come.
        """
        is_router = target not in self.servers
        suspects = self.routable if is_router else [target]
        hang = await asyncio.gather(*(self._examine_one(server, version) for server in suspects))
        await self._routing.update(self.routable)
        silent = [server for server, hangs in zip(suspects, hang, strict=True) if hangs]
        if is_router and not target.is_routable:
            silent.append(target)
        return silent

    def explain(self) -> str:
        """What is wrong with the servers that are not routable, where too few are."""
        num_left = len(self.routable)
        left = (
            f"only {num_left} SGLang servers are left to generate, expected "
            f"rollout.servers.min_servers={self._config.min_servers}"
            if num_left
            else "no SGLang server is left to generate"
        )
        out = {server.url: server.problem for server in self.servers if not server.is_routable}
        return f"{left}: {_listed(out | self._absent)}"

    def leave_out(self, server: Server, problem: str) -> None:
        """Give a server no requests until it takes weights; have it restarted."""
        server.is_routable, server.problem = False, problem
        if server not in self._reported:
            self._reported.add(server)
            self.report(f"{server.url}: out until the next weights: {problem}")
        self._restarts.begin(server.url)

    async def close(self) -> None:
        """Close the connections."""
        for server in self.servers:
            await server.close()
        await self._routing.close()

    async def _look(self) -> None:
        """Add servers that answer and are not known yet; forget those no longer registered."""
        await self._routing.look()
        urls = list(self._config.urls)
        if self._config.registry is not None:
            urls = registered_urls(self._config.registry)
        self._absent = {}
        for url in self._servers.keys() - set(urls):
            await self._servers.pop(url).close()
            self.report(f"{url}: is not announced any more")
            self._restarts.begin(url)
        await asyncio.gather(*(self._add(url) for url in urls if url not in self._servers))

    async def _add(self, url: str) -> None:
        server = Server(url, max_requests=self._config.max_requests, api_key=self._api_key)
        try:
            kind = await self._identify(server)
        except ServerFailure as failure:
            self._absent[url] = str(failure)
            await server.close()
            return
        except UserError:
            await server.close()
            raise
        self._servers[url] = server
        self._kind = self._kind or kind
        if kind != self._kind:
            raise UserError(f"{url}: {kind}, expected servers of one kind, {self._kind}")

    async def _identify(self, server: Server) -> Kind:
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
        for size in ("pp_size", "dp_size"):
            if info[size] != 1:
                raise UserError(
                    f"{server.url}: was started with {size}={info[size]}, expected 1: start "
                    "several servers, and split each by --tp-size alone"
                )
        if self._moves_temperature and not info["enable_custom_logit_processor"]:
            raise UserError(
                f"{server.url}: was started without {tempering.OPTION}, expected it: a link of the "
                "method moves the temperature of each token, and the servers have to run its rule"
            )
        self._routing.check_defaults(server, info)
        await check_tokenizer(server, info, self._tokenizer, deadline_s=deadline_s)
        return Kind(info["dtype"], info["device"], info["tp_size"])

    async def _call_the_roll(self) -> RollCall:
        async def answer(server: Server) -> dict[str, Any] | ServerFailure:
            try:
                deadline_s = self._config.health_deadline_s
                return await server.call("GET", "/model_info", deadline_s=deadline_s)
            except ServerFailure as failure:
                return failure

        servers = self.servers
        answers = await asyncio.gather(*(answer(server) for server in servers))
        return dict(zip(servers, answers, strict=True))

    async def _examine_one(self, server: Server, version: int) -> bool:
        """Whether it hangs."""
        try:
            await server.check_health(version, deadline_s=self._config.health_deadline_s)
        except (ServerFailure, UserError) as error:
            self.leave_out(server, str(error))
            return not isinstance(error, GoneError)
        if not server.is_routable:
            server.is_routable = True
            self._reported.discard(server)
            self.report(f"{server.url}: generates; it takes requests again")
        return False

    def _explain_absent(self) -> str:
        if self._absent:
            return "; ".join(
                f"{u}: no SGLang server answered ({p})" for u, p in self._absent.items()
            )
        return f"{self._config.registry}: too few SGLang servers are announced there"


def _listed(problems: Mapping[str, str]) -> str:
    return "; ".join(f"{url}: {problem}" for url, problem in problems.items()) or "none is known"
