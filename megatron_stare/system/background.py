"""One piece of work at a time in another thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

_PATIENCE_S = 1.0


class Background[T]:
    """Work is started, then waited for; an error in it is raised there."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="background")
        self._work: Future[T] | None = None

    @property
    def is_used(self) -> bool:
        """Whether work was started whose result is not taken."""
        return self._work is not None

    @property
    def is_done(self) -> bool:
        """Whether the result of what was started can be taken without waiting."""
        return self._work is not None and self._work.done()

    def start(self, function: Callable[[], T]) -> None:
        """Begin; the result of what was started before must have been taken."""
        assert self._work is None
        self._work = self._executor.submit(function)

    def result(self) -> T:
        """Wait for what was started."""
        assert self._work is not None
        work, self._work = self._work, None
        return work.result()

    def stop(self, cancel: Callable[[], None]) -> None:
        """Have work that nobody waits for any more end: `cancel` is called until it does."""
        while self._work is not None and not self._work.done():
            cancel()
            wait([self._work], timeout=_PATIENCE_S)
        self._executor.shutdown()
