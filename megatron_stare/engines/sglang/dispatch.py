"""Requests to servers: each to the least busy one, and again to another if that one fails.

    waiting --least busy routable server--> running --> answered
       ^                                      |
       +---- fewer than max_attempts ---------+--> given up

A sample that goes on runs where it ran last, whose cache has what it begins with, if there is room.
A server that fails a request gets no more until it is seen to generate under the right weights.
Everything here runs in one event loop, and goes on whether or not somebody waits for an answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from megatron_stare.config.rollout import ServersConfig
from megatron_stare.engines.engine import Request
from megatron_stare.engines.sglang.answers import Generation, ServerFailure
from megatron_stare.engines.sglang.client import GivenUpError, Server
from megatron_stare.engines.sglang.health import HealthWatch
from megatron_stare.engines.sglang.pool import ServerPool
from megatron_stare.errors import UserError

_ABORT_EVERY_S = 1.0
"""An abort that overtakes its request does nothing, so it is repeated."""
_ABORTS_AT_ONCE = 64
"""Each takes a connection."""
_NUM_NAMED = 8
"""Requests that a message names; of more it says how many."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request on its way: `parameters` as the server takes them, `number` of failures before.

    scored_from  where the tokens begin that are to be scored; None where they are to go on
    """

    request: Request
    token_ids: tuple[int, ...]
    parameters: dict[str, Any]
    number: int = 0
    scored_from: int | None = None

    @property
    def name(self) -> str:
        """Of the sample, for messages."""
        prompt = self.request.prompt
        return f"sample {self.request.index} of prompt {prompt.uid} ({prompt.row})"


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with its response; `seconds` from when it was sent to this server."""

    request: Request
    generation: Generation
    seconds: float


@dataclass(frozen=True, slots=True)
class _Ask:
    """An attempt under way at a server; `since` in the event loop's seconds."""

    attempt: Attempt
    server: Server
    request_id: str
    since: float


class Dispatcher:
    """The requests of one call, on servers of a pool that have weights `version`.

    `start` sends them, `add` further ones, `next` gives the answers one by one, `interrupt` has
    what is running come as it stands, `cancel` stops everything. Requests that are given up never
    come. `report` is told of servers that fail and of requests that are given up.
    """

    def __init__(
        self,
        attempts: Iterable[Attempt],
        pool: ServerPool,
        *,
        version: int,
        config: ServersConfig,
        report: Callable[[str], None],
    ) -> None:
        self._waiting = deque(attempts)
        self._pool = pool
        self._version = version
        self._config = config
        self._report = report
        self._asks: dict[asyncio.Task[None], _Ask] = {}
        self._holders: dict[tuple[str, int], Server] = {}
        """Where each sample ran last: under these weights, its prefix is in that server's cache."""
        self._chores: set[asyncio.Task[None]] = set()
        """Tasks that look after servers."""
        self._watching: asyncio.Task[None] | None = None
        self._arrived: asyncio.Queue[Answered | Exception | None] = asyncio.Queue()
        self._is_interrupted = False
        self._watch = HealthWatch(
            lambda: pool.watched,
            self._lose,
            every_s=config.health_every_s,
            deadline_s=config.health_deadline_s,
        )

    async def start(self) -> None:
        """Send what there is room for."""
        self._watching = self._begin(self._watch.run())
        self._go_on()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and every answer was given."""
        return not (self._asks or self._chores or self._waiting) and self._arrived.empty()

    async def add(self, attempts: Iterable[Attempt]) -> None:
        """Send more, unless interrupted."""
        if not self._is_interrupted:
            self._waiting.extend(attempts)
        self._go_on()

    async def wake(self) -> None:
        """Have `next` give None, whatever is under way."""
        self._arrived.put_nowait(None)

    async def next(self) -> Answered | None:
        """The next answer, in the order they arrive; None after the last, and when woken.

        Raises:
            UserError: a server refuses a request, no server is left, or nothing has come for
                `stall_deadline_s`, twice, though everything was sent again.
        """
        for is_last_try in (False, True):
            try:
                async with asyncio.timeout(self._config.stall_deadline_s):
                    arrived = await self._arrived.get()
            except TimeoutError:
                stalled = self._explain_stall()
                if is_last_try:
                    raise UserError(stalled) from None
                self._report(f"{stalled}; all of it is sent again")
                self._send_again()
            else:
                if isinstance(arrived, Exception):
                    raise arrived
                return arrived
        return None

    async def interrupt(self) -> None:
        """Drop what waits, and have servers stop what runs: it arrives as it stands."""
        if not self._is_interrupted:
            self._is_interrupted = True
            self._waiting.clear()
            if self._asks:
                self._chores.add(self._begin(self._stop_until_idle()))

    async def cancel(self) -> None:
        """Drop every request, here and on the servers."""
        self._is_interrupted = True
        self._waiting.clear()
        asks, tasks = list(self._asks.values()), [*self._asks, *self._chores]
        if self._watching is not None:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._abort(asks)

    def _go_on(self) -> None:
        """Send waiting requests as far as there is room; tell of the end when it has come."""
        if self._waiting:
            self._send()
        if not (self._asks or self._chores):
            error = UserError(self._pool.explain()) if self._waiting else None
            self._waiting.clear()
            self._arrived.put_nowait(error)

    def _send(self) -> None:
        num_asks = Counter(ask.server for ask in self._asks.values())
        while self._waiting and (server := self._best(self._waiting[0], num_asks)) is not None:
            num_asks[server] += 1
            attempt = self._waiting.popleft()
            request = attempt.request
            self._holders[request.key] = server
            # Never twice, also beside what a server has not yet dropped.
            request_id = f"{request.prompt.uid}:{request.index}:{uuid4().hex}"
            ask = _Ask(attempt, server, request_id, asyncio.get_running_loop().time())
            self._asks[self._begin(self._ask(ask))] = ask

    def _best(self, attempt: Attempt, num_asks: Counter[Server]) -> Server | None:
        """The server that holds what the sample begins with; else the least busy one."""
        free = [t for t in self._pool.targets if num_asks[t] < t.max_requests]
        holder = self._holders.get(attempt.request.key)
        return (
            holder
            if holder in free
            else min(free, key=lambda server: num_asks[server], default=None)
        )

    def _begin(self, action: Awaitable[None]) -> asyncio.Task[None]:
        async def act() -> None:
            try:
                await action
            except Exception as error:
                self._arrived.put_nowait(error)

        task = asyncio.create_task(act())
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._asks.pop(task, None)
        self._chores.discard(task)
        if not task.cancelled():
            self._go_on()

    async def _ask(self, ask: _Ask) -> None:
        try:
            generation = await self._answer(ask)
            if generation.finish_reason == "aborted" and not self._is_interrupted:
                raise ServerFailure("stopped a request that it was not told to stop")
        except ServerFailure as failure:
            self._suspect(ask.server, str(failure))
            # Given up at a router, it may have run on another server than the one that hangs.
            is_server = ask.server in self._pool.servers
            self._take_back(ask.attempt, counts=is_server or not isinstance(failure, GivenUpError))
        except UserError as error:
            raise UserError(f"{ask.attempt.name}: {error}") from None
        else:
            seconds = asyncio.get_running_loop().time() - ask.since
            self._arrived.put_nowait(Answered(ask.attempt.request, generation, seconds))

    async def _answer(self, ask: _Ask) -> Generation:
        attempt, deadline_s = ask.attempt, self._config.request_deadline_s
        asked = (ask.request_id, attempt.token_ids, attempt.parameters)
        told = {"version": self._version, "deadline_s": deadline_s}
        if attempt.scored_from is None:
            return await ask.server.generate(*asked, **told)
        return await ask.server.score(*asked, attempt.scored_from, **told)

    def _suspect(self, server: Server, reason: str) -> None:
        """Send a server nothing more until it was seen to generate."""
        if server.is_routable:
            server.is_routable, server.problem = False, reason
            self._report(f"{server.url}: {reason}; its requests go to other servers")
            self._chores.add(self._begin(self._examine(server)))

    async def _examine(self, server: Server) -> None:
        for silent in await self._pool.examine(server, self._version):
            self._give_up(silent, silent.problem)

    def _lose(self, server: Server, reason: str) -> None:
        """A server has fallen silent."""
        self._suspect(server, reason)
        self._give_up(server, reason)

    def _give_up(self, server: Server, reason: str) -> None:
        """Wait no more for what runs on a server, and what may run on it."""
        for target in self._pool.leading_to(server):
            target.give_up(reason)

    def _take_back(self, attempt: Attempt, *, counts: bool = True) -> None:
        """Have a failed request wait again, before the others."""
        again = replace(attempt, number=attempt.number + counts)
        self._holders.pop(attempt.request.key, None)
        if self._is_interrupted:
            return
        if again.number < self._config.max_attempts:
            self._waiting.appendleft(again)
        else:
            self._report(f"{attempt.name}: given up after {again.number} servers failed it")

    async def _stop_until_idle(self) -> None:
        deadline_s = self._config.health_deadline_s
        while asks := dict(self._asks):
            servers = {ask.server for ask in asks.values()}
            stops = (server.abort_all(deadline_s=deadline_s) for server in servers)
            await asyncio.gather(*stops, return_exceptions=True)
            await asyncio.wait(asks, timeout=_ABORT_EVERY_S)

    async def _abort(self, asks: Iterable[_Ask]) -> None:
        deadline_s = self._config.health_deadline_s
        room = asyncio.Semaphore(_ABORTS_AT_ONCE)

        async def abort(ask: _Ask) -> None:
            async with room:
                await ask.server.abort(ask.request_id, deadline_s=deadline_s)

        await asyncio.gather(*map(abort, asks), return_exceptions=True)

    def _send_again(self) -> None:
        """Give up on every answer that is awaited, and have its request wait again."""
        asks, self._asks = self._asks, {}
        for task, ask in asks.items():
            if task.cancel():  # It is too late for one whose answer has just come.
                self._suspect(ask.server, "nothing comes from it")
                self._take_back(ask.attempt)
        self._chores.add(self._begin(self._abort(asks.values())))

    def _explain_stall(self) -> str:
        now = asyncio.get_running_loop().time()
        places = [
            f"{ask.attempt.name} at {ask.server.url} since {now - ask.since:.0f} s"
            for ask in self._asks.values()
        ]
        places += [f"{attempt.name} not sent" for attempt in self._waiting]
        named, more = places[:_NUM_NAMED], len(places) - _NUM_NAMED
        return (
            f"no sample came for rollout.servers.stall_deadline_s="
            f"{self._config.stall_deadline_s:g} s; waiting for {', '.join(named)}"
            + (f" and {more} more" if more > 0 else "")
        )
