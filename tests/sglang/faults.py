"""Ways in which servers, connections and trainers fail, for tests on real ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_stare.engines.sglang.event_loop import EventLoop
from tests.e2e.programs import REPO

_BUFFER_BYTES = 65536


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that is stopped: its port takes connections, and nothing answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def slowed(pid: int, *, stopped_s: float, running_s: float) -> Iterator[None]:
    """A process that runs for a share of the time."""
    ended = threading.Event()

    def slow() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stopped_s)
            os.kill(pid, signal.SIGCONT)
            time.sleep(running_s)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class BreakingProxy:
    """A TCP proxy before a server that resets connections in the middle of answers.

    num_left      answers of /generate to break from now on, 0 at first; all others pass
    peak          most requests of /generate that were under way
    num_asked     requests of /generate so far
    num_answered  of them
    holds         whether the next answer of /generate is to wait
    """

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.num_left = 0
        self.peak = 0
        self.num_asked = 0
        self.num_answered = 0
        self.holds: Callable[[], bool] = lambda: False
        self._behind = (host, int(port))
        self._loop = EventLoop()
        self._connections: dict[asyncio.Task[None], None] = {}
        self._listener = self._loop.run(asyncio.start_server(self._connect, host, 0))
        self.url = f"http://{host}:{self._listener.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Break every connection, and take no more."""
        self._loop.run(self._end())
        self._loop.close()

    def break_newest(self) -> None:
        """Break the connection that came last."""
        self._loop.run(self._break_newest())

    async def _break_newest(self) -> None:
        [*_, newest] = self._connections
        newest.cancel()

    async def _end(self) -> None:
        self._listener.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(*self._behind)
        tasks = [
            asyncio.create_task(self._ask(reader, server)),
            asyncio.create_task(self._answer(answers, client)),
        ]
        self._connections.update(dict.fromkeys(tasks))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
            del self._connections[task]
        server.close()
        client.close()

    async def _answer(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await answers.read(_BUFFER_BYTES):
            is_generation = b'"output_ids":[' in data
            while is_generation and self.holds():
                await asyncio.sleep(0.05)
            self.num_answered += is_generation
            if self.num_left > 0 and is_generation:
                self.num_left -= 1
                client.write(data[: len(data) // 2])
                await client.drain()
                _reset(client)
                return
            client.write(data)
            await client.drain()

    async def _ask(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await client.read(_BUFFER_BYTES):
                self.num_asked += b"POST /generate" in data
                self.peak = max(self.peak, self.num_asked - self.num_answered)
                server.write(data)
                await server.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    lingering = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
    writer.transport.abort()


def start_trainer(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`tests/sglang/trainer.py` as a process of its own; `before` is what to run it under."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "tests.sglang.trainer", *map(str, arguments)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_small_disk(folder: Path, size: str) -> tuple[str, ...] | None:
    """What to run a program under that finds a disk of this size at a folder; None if it cannot."""
    under = (
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
        f'mount -t tmpfs -o size={size} none "{folder}" && exec "$@"',
        "sh",
    )
    done = subprocess.run([*under, "true"], capture_output=True, check=False)
    return under if done.returncode == 0 else None
