"""An event loop in a thread of its own: what runs in it goes on while its callers do other work."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Coroutine
from typing import Any


class EventLoop:
    """Runs coroutines for callers in other threads, with as many connections as may be."""

    def __init__(self) -> None:
        _allow_open_files()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sglang-engine", daemon=True
        )
        self._thread.start()

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end and give the result; what is interrupted here is cancelled there."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread, once; nothing runs in it any more."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _allow_open_files() -> None:
    """A request under way is a connection, and so a file: the usual limit of 1,024 is soon met."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
