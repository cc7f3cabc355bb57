"""Requests to servers: each to the least busy one, and again to another if that one fails.

    waiting --least busy routable server--> running --> answered
       ^                                      |
       +---- fewer than max_attempts ---------+--> given up

A server that fails a request gets no more until it is seen to generate under the right weights.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

from megatron_stare.config import ServersConfig
from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.client import Generation, Server, ServerFailure
from megatron_stare.rollout.sglang.pool import ServerPool
from megatron_stare.types import Prompt


@dataclass(frozen=True, slots=True)
class Request:
    """A sample to be generated: `parameters` as the server takes them, `attempts` so far."""

    prompt: Prompt
    index: int
    parameters: dict[str, Any]
    attempts: int = 0

    @property
    def name(self) -> str:
        """Of the sample, for messages."""
        return f"sample {self.index} of prompt {self.prompt.uid} ({self.prompt.row})"


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with its response; `seconds` from when it was sent to this server."""

    request: Request
    generation: Generation
    seconds: float


@dataclass(frozen=True, slots=True)
class _Failed:
    request: Request
    server: Server
    reason: str


class Dispatcher:
    """The requests of one call, on servers of a pool that have weights `version`.

    `next` gives the answers one by one; `cancel` stops what still runs. Requests that are given up
    never come. `report` is told of servers that fail and of requests that are given up.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        pool: ServerPool,
        *,
        version: int,
        config: ServersConfig,
        report: Callable[[str], None],
    ) -> None:
        self._waiting = deque(requests)
        self._pool = pool
        self._version = version
        self._config = config
        self._report = report
        self._outcomes: asyncio.Queue[Answered | _Failed | Exception | None] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[None], tuple[Server, str | None]] = {}
        """Running tasks, each with its server and the id of its request, if it has one."""
        self._num_running: Counter[Server] = Counter()
        self._num_owed = 0
        """Outcomes that running tasks will put into the queue."""

    async def next(self) -> Answered | None:
        """The next answer, in the order they arrive; None after the last.

        Raises:
            UserError: a server refuses a request, or no server is left.
        """
        while True:
            self._send()
            if self._num_owed == 0:
                if self._waiting:
                    raise UserError(self._pool.explain())
                return None
            outcome = await self._outcomes.get()
            self._num_owed -= 1
            if isinstance(outcome, Answered):
                return outcome
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, _Failed):
                self._take_back(outcome)

    async def cancel(self) -> None:
        """Drop every request, here and on the servers."""
        self._waiting.clear()
        running = dict(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.gather(
            *(
                server.abort(request_id, deadline_s=self._config.health_deadline_s)
                for server, request_id in running.values()
                if request_id is not None and server.is_routable
            ),
            return_exceptions=True,
        )

    def _send(self) -> None:
        """Send waiting requests as far as there is room on routable servers."""
        while self._waiting:
            free = [
                server
                for server in self._pool.servers
                if server.is_routable and self._num_running[server] < self._config.max_requests
            ]
            if not free:
                return
            server = min(free, key=lambda server: self._num_running[server])
            request = self._waiting.popleft()
            # Unique, also beside what a server has not yet dropped. Of a fixed width behind the
            # sample's name: servers match ids by their beginning, so none may begin another.
            request_id = f"{request.prompt.uid}:{request.index}:{uuid4().hex}"
            self._num_running[server] += 1
            self._start(partial(self._ask, request, server, request_id), server, request_id)

    def _start(
        self,
        work: Callable[[], Awaitable[Answered | _Failed | None]],
        server: Server,
        request_id: str | None = None,
    ) -> None:
        async def deliver() -> None:
            try:
                self._outcomes.put_nowait(await work())
            except Exception as error:
                self._outcomes.put_nowait(error)

        self._num_owed += 1
        task = asyncio.create_task(deliver())
        self._tasks[task] = (server, request_id)
        task.add_done_callback(self._tasks.pop)

    async def _ask(self, request: Request, server: Server, request_id: str) -> Answered | _Failed:
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            generation = await server.generate(
                request_id,
                request.prompt.token_ids,
                request.parameters,
                version=self._version,
                deadline_s=self._config.request_deadline_s,
            )
        except ServerFailure as failure:
            return _Failed(request, server, str(failure))
        finally:
            self._num_running[server] -= 1
        return Answered(request, generation, clock() - start)

    def _take_back(self, failed: _Failed) -> None:
        """Have a failed request wait again, before the others, and look at its server."""
        server, request = failed.server, failed.request
        if server.is_routable:
            server.is_routable, server.problem = False, failed.reason
            self._report(f"{server.url}: {failed.reason}; its requests go to other servers")
            self._start(partial(self._examine, server), server)
        again = replace(request, attempts=request.attempts + 1)
        if again.attempts < self._config.max_attempts:
            self._waiting.appendleft(again)
        else:
            self._report(f"{request.name}: given up after {again.attempts} servers failed it")

    async def _examine(self, server: Server) -> None:
        try:
            await server.check_health(self._version, deadline_s=self._config.health_deadline_s)
        except (ServerFailure, UserError) as error:
            server.problem = str(error)
            self._report(f"{server.url}: out until the next weights: {server.problem}")
        else:
            server.is_routable = True
            self._report(f"{server.url}: generates; it takes requests again")
