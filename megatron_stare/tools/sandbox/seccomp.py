"""A seccomp filter that lets through the system calls of a table, and refuses all others.

What is refused fails with EPERM, which Python raises as `PermissionError`. Some calls are let
through with certain arguments only: they would otherwise reach another process.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import signal
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from megatron_stare.tools.sandbox.syscalls import AARCH64, X86_64

_LOAD, _JUMP_IF, _JUMP_FROM, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32_BIT = 0x40000000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_MACHINES = {"x86_64": (0xC000003E, X86_64), "aarch64": (0xC00000B7, AARCH64)}

_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""Of descriptors: duplicates and flags. None that names who is sent a signal."""
_IOCTL_COMMANDS = (0x5401, 0x541B, 0x5450, 0x5451)
"""TCGETS, FIONREAD, FIONCLEX and FIOCLEX, which Python asks of any file."""


class _Check(NamedTuple):
    """Of half an argument, 32 bits: one of some values, or none of them.

    word   2 i is the lower half of argument i, 2 i + 1 the upper one
    """

    word: int
    values: Sequence[int]
    are_allowed: bool = True


_CHECKS = {
    "prlimit64": (_Check(0, [0]), _Check(4, [0]), _Check(5, [0])),
    "fcntl": (_Check(2, _FCNTL_COMMANDS),),
    "ioctl": (_Check(2, _IOCTL_COMMANDS),),
}
"""What arguments may be: limits of this process are read, and never set."""


def is_known_machine() -> bool:
    """Whether there is a table of system calls for this kind of machine."""
    return platform.machine() in _MACHINES


def prepare() -> None:
    """Make what every filter has in common, once for a process and its children."""
    _common()


def install(own_pid: int) -> None:
    """Filter the calls of this process from now on; it can never be undone.

    Needs `no_new_privs`, or the capability to do without.

    Raises:
        OSError: the system has no seccomp.
    """
    program = b"".join([*_head(), *_to_itself(own_pid)]) + _common()
    code = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp cannot be had")


def _head() -> Iterator[bytes]:
    """Loads the number of the call, of this machine's own table."""
    architecture, _ = _MACHINES[platform.machine()]
    yield _instruction(_LOAD, _ARCHITECTURE)
    yield _instruction(_JUMP_IF, architecture, 1, 0)
    yield _instruction(_RETURN, _KILL)
    yield _instruction(_LOAD, _NUMBER)
    yield _instruction(_JUMP_FROM, _X32_BIT, 0, 1)
    yield _instruction(_RETURN, _REFUSE)


def _to_itself(own_pid: int) -> Iterator[bytes]:
    """Signals from a process to itself.

    With SIGKILL of its own making, a run would look like one that the system has ended.
    """
    _, numbers = _MACHINES[platform.machine()]
    for name, signal_word in (("kill", 2), ("tgkill", 4)):
        checks = [_Check(0, [own_pid]), _Check(signal_word, [signal.SIGKILL], are_allowed=False)]
        yield from _rule(numbers[name], checks)


@functools.cache
def _common() -> bytes:
    _, numbers = _MACHINES[platform.machine()]
    names = [name for name in numbers if name not in ("kill", "tgkill")]
    rules = [part for name in names for part in _rule(numbers[name], _CHECKS.get(name, ()))]
    return b"".join([*rules, _instruction(_RETURN, _REFUSE)])


def _rule(number: int, checks: Sequence[_Check]) -> list[bytes]:
    block = [*_checked(checks), _instruction(_RETURN, _ALLOW)]
    return [_instruction(_JUMP_IF, number, 0, len(block)), *block]


def _checked(checks: Sequence[_Check]) -> Iterator[bytes]:
    for check in checks:
        yield _instruction(_LOAD, _ARGUMENTS + 4 * check.word)
        for i, value in enumerate(check.values):
            if check.are_allowed:
                yield _instruction(_JUMP_IF, value, len(check.values) - i, 0)
            else:
                yield _instruction(_JUMP_IF, value, 0, 1)
                yield _instruction(_RETURN, _REFUSE)
        if check.are_allowed:
            yield _instruction(_RETURN, _REFUSE)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
