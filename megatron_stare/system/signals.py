"""SIGTERM, SIGUSR1 and Ctrl-C: stop with everything saved; twice: stop at once.

Python runs a signal's handler between two steps of its main thread, which may sit in a collective
for hours. So a thread of its own hears the signals, by the descriptor that Python wakes.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from megatron_stare.system.stop_signals import SIGNALS

STOPPED = 75
"""Exit code of a run that was asked to stop (EX_TEMPFAIL: to be tried again)."""

_SAVING = b"\nmegatron-stare: stopping, with everything saved; Ctrl-C once more stops at once\n"


class StopRequest:
    """Whether this process was asked to stop, and what is to be told at that moment."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._event.is_set()

    def when_set(self, listener: Callable[[], None]) -> None:
        """Call `listener`, in another thread, when a signal comes; at once if one has."""
        self._listeners.append(listener)
        if self.is_set:
            listener()

    def set(self) -> None:
        """Ask to stop."""
        self._event.set()
        for listener in list(self._listeners):
            listener()


@contextmanager
def stop_requests(grace_s: float) -> Iterator[StopRequest]:
    """Hear the signals as long as this is open, in the main thread.

    The process ends with `STOPPED` when a second signal comes, and `grace_s` seconds after the
    first if it is still there.
    """
    request = StopRequest()
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(ours, request, grace_s), daemon=True)
    thread.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        wakeup.close()
        thread.join()
        ours.close()


def _listen(source: socket.socket, request: StopRequest, grace_s: float) -> None:
    """Until the other end is closed."""
    try:
        while number := source.recv(1):
            if number[0] not in SIGNALS:
                continue
            if request.is_set:
                os._exit(STOPPED)
            source.settimeout(grace_s)
            if number[0] == signal.SIGINT:
                os.write(2, _SAVING)
            request.set()
    except TimeoutError:
        os._exit(STOPPED)
