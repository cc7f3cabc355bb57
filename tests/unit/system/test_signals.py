"""Asked to stop once: everyone is told. Twice, or too slow: the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from megatron_stare.system.signals import STOPPED, stop_requests
from megatron_stare.system.stop_signals import SIGNALS

# The main thread waits for ever.
BLOCKED = """
import sys, threading
from megatron_stare.system.signals import stop_requests
with stop_requests(grace_s=float(sys.argv[1])) as stop:
    stop.when_set(lambda: print("told", flush=True))
    print("ready", flush=True)
    blocked = threading.Lock()
    blocked.acquire()
    blocked.acquire()
"""


@pytest.fixture(params=[60.0])
def blocked(request):
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED, str(request.param)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_ends_the_process_at_once(blocked, first):
    blocked.send_signal(first)
    assert blocked.stdout.readline() == "told\n"
    assert blocked.poll() is None
    blocked.send_signal(signal.SIGUSR1)
    assert blocked.wait(timeout=5) == STOPPED


@pytest.mark.parametrize("blocked", [0.2], indirect=True)
def test_the_process_ends_when_its_time_is_over(blocked):
    blocked.send_signal(signal.SIGTERM)
    assert blocked.wait(timeout=5) == STOPPED


def test_listeners_hear_of_it_even_if_they_come_late():
    told: list[str] = []
    with stop_requests(grace_s=60) as request:
        assert not request.is_set
        request.when_set(lambda: told.append("early"))
        os.kill(os.getpid(), signal.SIGUSR1)
        while not told:
            pass
        request.when_set(lambda: told.append("late"))
    assert request.is_set
    assert told == ["early", "late"]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests(grace_s=60):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
