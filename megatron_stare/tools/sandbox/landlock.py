"""Landlock: files that a process, and what it becomes, can open; the kernel's, without privileges.

A process so restricted can neither trace nor inspect another that is not, and from version 6 on
signal none. Looking whether a path exists is not restricted.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

MIN_VERSION = 3
"""Earlier ones do not keep a file from being emptied (Linux 6.2)."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_FILE_RIGHTS = {3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Everything that a version of Landlock can restrict, by the first that can."""
_NET_RIGHTS = {4: 0b11}
_SCOPES = {6: 0b11}
_READ = _READ_FILE | _READ_FOLDER
_USE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of the kernel's Landlock; 0 where there is none."""
    return max(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION), 0)


def make_ruleset(readable: Sequence[Path], usable: Sequence[Path]) -> int:
    """A descriptor of rules: what may be read, and what may be read, written, made and removed.

    Folders stand for all below them, paths that there are not for nothing.

    Raises:
        OSError: the kernel cannot do that.
    """
    kernel = version()
    rights = [_known(of, kernel) for of in (_FILE_RIGHTS, _NET_RIGHTS, _SCOPES)]
    attributes = struct.pack("QQQ", *rights)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    os.set_inheritable(ruleset, False)
    for paths, allowed in ((readable, _READ), (usable, _USE)):
        for path in paths:
            if path.exists():
                _allow(ruleset, path, allowed)
    return ruleset


def restrict(ruleset: int) -> None:
    """Hold this process to the rules for ever; it needs `no_new_privs`."""
    _call(_RESTRICT_SELF, ruleset, 0)


def _known(rights: dict[int, int], kernel: int) -> int:
    """Those of the newest version that the kernel has."""
    return max((right for version, right in rights.items() if version <= kernel), default=0)


def _allow(ruleset: int, path: Path, allowed: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = allowed if path.is_dir() else allowed & _OF_A_FILE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
