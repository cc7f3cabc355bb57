"""Reading files that somebody may have replaced: of a pipe or a device, reading may never end."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO, Any

from megatron_stare.errors import UserError


def read_whole(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, or is a pipe or a device.
    """
    check_kind(path)
    return path.read_bytes()


def open_file(path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """`path.open(mode, **options)`, to read.

    Raises:
        OSError: it cannot be opened, or is a pipe or a device.
    """
    check_kind(path)
    return path.open(mode, **options)


def check_files(folder: Path) -> None:
    """See that a library can read the files of a folder, if it is there.

    Raises:
        UserError: one of them is a pipe or a device.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _is_pipe(path):
            raise UserError(f"{path}: a pipe or a device, expected a file")


def check_kind(path: Path) -> None:
    """OSError where there is a pipe or a device."""
    if _is_pipe(path):
        raise OSError(errno.EINVAL, "a pipe or a device, and no file", str(path))


def _is_pipe(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir())
