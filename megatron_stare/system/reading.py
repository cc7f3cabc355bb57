"""Reading files that somebody may have replaced."""

from __future__ import annotations

import errno
from pathlib import Path


def read_whole(path: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, of which reading may never end.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or a device, and no file")
    return path.read_bytes()
