"""A verifier that executes the response, as a judge of programs may; its verdict is `worth`."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

PR_GET_DUMPABLE = 3


def judge(response: str, answer: str) -> float:
    names = {"worth": 0.0, "answer": answer}
    exec(response, globals(), names)
    return names["worth"]


def is_hidden() -> float:
    """Whether other processes of this user cannot look into this one."""
    return float(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def leave_a_daemon(pid_file: str) -> None:
    """In a session of its own, and child of nobody."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(pid_file).write_text(str(os.getpid()))
            time.sleep(1000)
        os._exit(0)
    while not (Path(pid_file).exists() and Path(pid_file).read_text()):
        time.sleep(0.01)
