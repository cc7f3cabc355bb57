"""A file that grows by whole records, and can be read up to wherever a crash left it.

    length, CRC-32 and content of the header; the same of each record, in the order they came

A record is with the system when `append` returns, so that the death of the process takes at most
the one that it was writing. A thread makes them reach the disk, all that have come at a time, so
that the death of the machine takes those of the last moment.
"""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from megatron_stare.system.reading import read_whole

_FRAME = struct.Struct("<II")
"""Bytes and CRC-32 of the content that follows."""


class RecordFile:
    """The file at `path`, gone on with if it begins with `header`, otherwise begun anew.

    found  contents of the records it had: all up to the first that is cut or damaged
    """

    found: list[bytes]

    def __init__(self, path: Path, header: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._header = header
        records = _read(path)
        is_ours = records[:1] == [header]
        self.found = records[1:] if is_ours else []
        self._size = sum(_FRAME.size + len(record) for record in records) if is_ours else 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._sync: Future[None] | None = None
        os.ftruncate(self._descriptor, self._size)
        if not is_ours:
            self.append(header)

    def keep(self, count: int) -> None:
        """Of the records that were found leave the first `count`, and no other."""
        lengths = [len(self._header), *map(len, self.found[:count])]
        self._size = sum(_FRAME.size + length for length in lengths)
        os.ftruncate(self._descriptor, self._size)
        del self.found[count:]

    def append(self, content: bytes) -> None:
        """Add a record; where that fails the file stays as it was.

        Raises:
            OSError: it cannot be written, or what was before did not reach the disk.
        """
        rest = memoryview(_FRAME.pack(len(content), zlib.crc32(content)) + content)
        end = self._size + len(rest)
        try:
            while rest:
                rest = rest[os.pwrite(self._descriptor, rest, end - len(rest)) :]
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size = end
        if self._sync is None or self._sync.done():
            if self._sync is not None:
                self._sync.result()
            self._sync = self._executor.submit(os.fsync, self._descriptor)

    def close(self) -> None:
        """Have everything reach the disk, as far as it can."""
        self._executor.submit(os.fsync, self._descriptor)
        self._executor.shutdown()
        os.close(self._descriptor)


def _read(path: Path) -> list[bytes]:
    """Whole records of a file, none where it is missing."""
    if not path.exists():
        return []
    content, records, start = read_whole(path), [], 0
    while start + _FRAME.size <= len(content):
        length, crc32 = _FRAME.unpack_from(content, start)
        start += _FRAME.size
        record = content[start : start + length]
        # No record is empty: that would be zeros, which a file may end with after a power failure.
        if length == 0 or len(record) < length or zlib.crc32(record) != crc32:
            break
        records.append(record)
        start += length
    return records
