"""Verifiers for the tests: most misbehave, in the way the response asks for."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NOT_A_FUNCTION = 3.0


def act(response: str, answer: str) -> object:
    """Do what the response says; any other response is compared with the answer."""
    if response in ACTIONS:
        return ACTIONS[response]()
    return response == answer


def process_id(response: str, answer: str) -> float:
    return float(os.getpid())


def start_a_process_and_hang(response: str, answer: str) -> None:
    """Leaves the process id of its child in the file that the answer names."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(answer).write_text(str(child.pid))
    time.sleep(1000)


def terminate_a_process(response: str, answer: str) -> float:
    """Its exit code."""
    child = subprocess.Popen(["sleep", "1000"])
    child.terminate()
    return float(child.wait())


def report_and_hang(response: str, answer: str) -> None:
    Path(answer).write_text(str(os.getpid()))
    hold_the_interpreter_lock()


def nap(response: str, answer: str) -> float:
    time.sleep(float(response))
    return 1.0


def number(response: str, answer: str) -> float:
    return float(response)


def loop_forever() -> None:
    while True:
        pass


def backtrack() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def hold_the_interpreter_lock() -> None:
    """C code that takes hours and lets no other thread of the process run."""
    pow(3, 10**9)


def read_address_zero() -> None:
    ctypes.string_at(0)


def allocate_at_once() -> int:
    return len(bytearray(64 << 30))


def allocate_by_and_by() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(4 << 20))


def print_a_lot() -> float:
    print("noise" * 100_000)
    print("noise" * 100_000, file=sys.stderr)
    os.write(1, b"noise")
    return 1.0


def raise_an_error() -> None:
    raise ValueError("no such thing")


ACTIONS = {
    "loop forever": loop_forever,
    "backtrack": backtrack,
    "hold the lock": hold_the_interpreter_lock,
    "exit": lambda: os._exit(3),
    "raise SystemExit": lambda: sys.exit("bye"),
    "segfault": read_address_zero,
    "allocate at once": allocate_at_once,
    "allocate by and by": allocate_by_and_by,
    "raise": raise_an_error,
    "print": print_a_lot,
    "return text": lambda: "1.0",
    "return nothing": lambda: None,
    "return nan": lambda: float("nan"),
    "return half": lambda: 0.5,
}


def act_at_first(response: str, answer: str) -> object:
    """Do what the response says, once; the file that the answer names has a line for each try."""
    with Path(answer).open("a") as tries:
        tries.write(f"{os.getpid()}\n")
    if Path(answer).read_text().count("\n") > 1:
        return 1.0
    return LOSING[response]()


def act_always(response: str, answer: str) -> object:
    """The same, at every try."""
    with Path(answer).open("a") as tries:
        tries.write(f"{os.getpid()}\n")
    return LOSING[response]()


def refuse(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


LOSING = {
    **{name: ACTIONS[name] for name in ("exit", "segfault", "allocate at once")},
    "no server": refuse(ConnectionRefusedError("no judge at port 9")),
    "no process": refuse(BlockingIOError("cannot fork")),
    "time limit of its own": refuse(TimeoutError("took too long")),
    "time limit of a tool": refuse(subprocess.TimeoutExpired("gcc", 3)),
    **{name: ACTIONS[name] for name in ("loop forever", "raise", "return nothing", "return half")},
}
