"""Verifiers that meddle with others' verifications, in the way the response asks for."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress


def judge(response: str, answer: str) -> float:
    """A number is worth itself, after a moment in which others may meddle."""
    if response in ACTIONS:
        return ACTIONS[response]()
    time.sleep(0.03)
    return float(response.partition(" ")[0])


def fork(leave, *, delay_s: float = 0.0, by_c: bool = False):
    def act() -> float:
        # C's own fork calls none of Python's hooks: the child keeps the connection open.
        if (ctypes.CDLL(None).fork() if by_c else os.fork()) == 0:
            time.sleep(delay_s)
            return leave()
        return 0.25

    return act


def fail(error: type[BaseException]):
    def act():
        raise error(3)

    return act


def fork_for_its_exit_code() -> float:
    process = os.fork()
    if process == 0:
        sys.exit(7)
    return float(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def connections() -> list[int]:
    sockets = [entry for entry in map(int, os.listdir("/proc/self/fd")) if entry > 2]
    return [entry for entry in sockets if is_socket(entry)]


def is_socket(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        return False


def write(content: bytes):
    def act() -> float:
        for descriptor in connections():
            with suppress(OSError):
                os.write(descriptor, content)
        return 0.25

    return act


def write_later() -> float:
    threading.Timer(0.1, write(b"garbage\n")).start()
    return 0.25


def flood() -> float:
    descriptors = connections()
    while True:
        for descriptor in descriptors:
            os.write(descriptor, b'["note", "x"]\n' * 1000)


def forge_verdicts() -> float:
    """For whatever ids are in the memory of the process."""
    chunks = [o for o in gc.get_objects() if isinstance(o, list) and o and is_item(o[0])]
    for _, (identity, *_) in enumerate(chunks[0][1:] if chunks else []):
        write(
            json.dumps(["verdict", identity, 99.0, False, None, 0.0, "verdict", False]).encode()
            + b"\n"
        )()
    return 0.25


def is_item(thing: object) -> bool:
    return isinstance(thing, tuple) and len(thing) == 3 and isinstance(thing[0], str)


def close_everything() -> float:
    os.closerange(3, 256)
    return 0.25


def shut_connections_down() -> float:
    for descriptor in connections():
        socket.socket(fileno=os.dup(descriptor)).shutdown(socket.SHUT_RDWR)
    return 0.25


def hold_the_interpreter_later() -> float:
    def work() -> int:
        time.sleep(0.1)
        return len(str(3 ** (10**9)))

    threading.Thread(target=work, daemon=True).start()
    return 0.25


def leave_an_alarm() -> float:
    def ring(*_: object) -> None:
        raise TimeoutError("an alarm of another's")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return 0.25


def kill_the_worker_later() -> float:
    worker = os.getpid()
    if os.fork() == 0:
        time.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        os._exit(0)
    return 0.25


def die_and_leave_a_child() -> float:
    if ctypes.CDLL(None).fork() == 0:
        time.sleep(30)
        os._exit(0)
    os._exit(4)


ACTIONS = {
    "fork, exit": fork(fail(SystemExit)),
    "fork, exit late": fork(fail(SystemExit), delay_s=0.1),
    "fork, raise": fork(fail(ValueError)),
    "fork, raise late": fork(fail(KeyboardInterrupt), delay_s=0.1),
    "fork, return": fork(lambda: 99.0),
    "fork, return late": fork(lambda: 99.0, delay_s=0.1),
    "fork in C, return late": fork(lambda: 99.0, delay_s=0.1, by_c=True),
    "fork in C, write late": fork(write(b"garbage\n"), delay_s=0.1, by_c=True),
    "fork for its exit code": fork_for_its_exit_code,
    "write garbage": write(b"\x80\x04garbage\n"),
    "write half a line": write(b'["verdict", '),
    "write a long line": write(b"x" * 100_000),
    "write deep JSON": write(b"[" * 60_000 + b"\n"),
    "write garbage later": write_later,
    "flood": flood,
    "forge verdicts": forge_verdicts,
    "close everything": close_everything,
    "shut connections down": shut_connections_down,
    "hold the interpreter later": hold_the_interpreter_later,
    "leave an alarm": leave_an_alarm,
    "kill the worker later": kill_the_worker_later,
    "die and leave a child": die_and_leave_a_child,
}
