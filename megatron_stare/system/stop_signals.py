"""The signals that ask a run to stop, and keeping them from processes that the run starts.

Slurm may send them to every process of a step, and a terminal its Ctrl-C to all that it has in
front, not only to the one that was started; and a process that died in the middle of its work would
spoil the very step that the run saves.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that this thread starts meanwhile begin with the signals blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Have the signals do nothing to this process; what it starts gets them as usual."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
