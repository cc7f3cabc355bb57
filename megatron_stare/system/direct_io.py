"""Writing past the system's cache of files: no copy into it, and nothing left to flush.

Where that cannot be, on file systems that do not know it and for less than whole pages, the same
bytes go through the cache.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Buffer
from pathlib import Path

import numpy as np

_PIECE_BYTES = 1 << 22


def open_direct(path: Path, flags: int) -> int:
    """A descriptor of a file that is written past the cache, where that can be."""
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags, 0o666)


def leave_direct(descriptor: int) -> None:
    """From here on, write through the cache."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)


def page_memory(num_bytes: int) -> np.ndarray:
    """uint8 [num_bytes] that begins with a page, as it takes to write past the cache."""
    return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)


def write_at(descriptor: int, content: memoryview, start: int) -> None:
    """Write all of it; past the cache, it is whole pages of memory for whole pages of the file."""
    end = start + len(content)
    while content:
        try:
            content = content[os.pwrite(descriptor, content, end - len(content)) :]
        except OSError as error:
            is_direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
            if error.errno != errno.EINVAL or not is_direct:
                raise
            leave_direct(descriptor)


def write_part(path: Path, start: int, content: Buffer) -> None:
    """Write a part of a file that is there; threads may write others at the same time.

    Whole pages go past the cache, by way of a buffer. A page that it shares with other parts goes
    through the cache, which puts them together: flush the file when all are written.
    """
    data = memoryview(content)
    page = mmap.PAGESIZE
    first, last = -(-start // page) * page - start, (start + len(data)) // page * page - start
    if first >= last:
        first = last = 0
    cached = os.open(path, os.O_WRONLY)
    try:
        write_at(cached, data[:first], start)
        write_at(cached, data[last:], start + last)
    finally:
        os.close(cached)
    if first < last:
        _write_pages(path, start + first, data[first:last])


def _write_pages(path: Path, start: int, data: memoryview) -> None:
    pages = page_memory(min(_PIECE_BYTES, len(data)))
    descriptor = open_direct(path, os.O_WRONLY)
    try:
        for offset in range(0, len(data), _PIECE_BYTES):
            content = np.frombuffer(data[offset : offset + _PIECE_BYTES], np.uint8)
            piece = pages[: len(content)]
            piece[:] = content
            write_at(descriptor, memoryview(piece), start + offset)
    finally:
        os.close(descriptor)
