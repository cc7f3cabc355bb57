"""Servers that hang: they accept connections and never answer, so no request of theirs fails.

While requests run, a server that has been silent has to show that it generates. One that is busy
answers that without any work, from the tokens it makes for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.errors import UserError

_LOOKS_PER_PERIOD = 8


class HealthWatch:
    """Tells of each server that hangs, within `every_s` + `deadline_s` of its last answer.

    Args:
        servers: those to watch, asked for again at every look.
        lose: called with a server and why it is lost.
        every_s: seconds of silence before a server is asked.
        deadline_s: seconds for its answer.
    """

    def __init__(
        self,
        servers: Callable[[], Iterable[Server]],
        lose: Callable[[Server, str], None],
        *,
        every_s: float,
        deadline_s: float,
    ) -> None:
        self._servers = servers
        self._lose = lose
        self._between_looks_s = every_s / _LOOKS_PER_PERIOD
        self._silence_s = every_s - self._between_looks_s
        self._deadline_s = deadline_s
        self._asked: set[Server] = set()

    async def run(self) -> None:
        """Watch until cancelled."""
        clock = asyncio.get_running_loop().time
        start = clock()
        async with asyncio.TaskGroup() as questions:
            while True:
                for server in self._servers():
                    silence_s = clock() - max(server.last_heard, start)
                    if silence_s >= self._silence_s and server not in self._asked:
                        questions.create_task(self._ask(server))
                await asyncio.sleep(self._between_looks_s)

    async def _ask(self, server: Server) -> None:
        self._asked.add(server)
        try:
            await server.check_health(None, deadline_s=self._deadline_s)
        except (ServerFailure, UserError) as error:
            # One that is not routable any more was lost in another way meanwhile.
            if server.is_routable:
                self._lose(server, str(error))
        finally:
            self._asked.remove(server)
