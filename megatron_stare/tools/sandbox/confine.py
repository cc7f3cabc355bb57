"""What a child does before it runs a model's code, so that the code can do little else."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import struct
from dataclasses import dataclass

from megatron_stare.tools.sandbox import landlock, seccomp

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITIES_VERSION = 0x20080522
_MAX_DESCRIPTORS = 64
_STACK_BYTES = 8 << 20
_ADDRESS_STEP = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run.

    memory_bytes   beside the interpreter's
    file_bytes     of all files together
    output_bytes   printed
    """

    cpu_s: int
    memory_bytes: int
    file_bytes: int
    output_bytes: int


def hide() -> None:
    """Keep the memory and the files of this process from those that are its user's."""
    _prctl(_PR_SET_DUMPABLE, 0)


def limit(limits: Limits, address_space: int) -> None:
    """Set the limits of this process, which has that many bytes of address space."""
    for kind, soft, hard in (
        # What handles the signal of the first has a second left.
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),
        (resource.RLIMIT_AS, *[address_space + limits.memory_bytes] * 2),
        (resource.RLIMIT_FSIZE, *[limits.file_bytes] * 2),
        (resource.RLIMIT_NOFILE, *[_MAX_DESCRIPTORS] * 2),
        (resource.RLIMIT_STACK, *[_STACK_BYTES] * 2),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def wall_in(parent: int, ruleset: int | None) -> None:
    """Take from this process, for ever, what reaches beyond it.

    It ends with its parent, has no capability and no descriptor but the first three, and makes no
    system calls but those of `seccomp`.

    Args:
        ruleset: of Landlock, if files are not behind other walls.

    Raises:
        OSError: the system cannot do that.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if ruleset is not None:
        landlock.restrict(ruleset)
    close_others()
    seccomp.install(os.getpid())


def close_others() -> None:
    """All descriptors but the first three; a template's are low, as it is given no more."""
    os.closerange(3, 1024)


def address_space() -> int:
    """Bytes that this process has mapped, and at most `_ADDRESS_STEP` more.

    By the smallest limit under which a page can still be mapped: where this runs there need be no
    /proc that would say it.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = before[1] if before[1] != resource.RLIM_INFINITY else 1 << 48
    least = 0
    try:
        while most - least > _ADDRESS_STEP:
            middle = (least + most) // 2
            resource.setrlimit(resource.RLIMIT_AS, (middle, before[1]))
            try:
                mmap.mmap(-1, mmap.PAGESIZE).close()
                most = middle
            except (OSError, MemoryError):
                least = middle
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return most


def _drop_capabilities() -> None:
    header, nothing = struct.pack("Ii", _CAPABILITIES_VERSION, 0), bytes(24)
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
