"""Writing through the system's cache of files, while what is in it goes to the disk.

For files that are read soon: they are still in the cache then. A flush at the end has little left
to do, so all of it takes as long as the slower of the copy and the disk.
"""

from __future__ import annotations

import os
from collections.abc import Buffer
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from megatron_stare.system.direct_io import write_at
from megatron_stare.system.folders import flush

_PIECE_BYTES = 1 << 26


class CachedWriter:
    """Writes parts of files that are there, and flushes them meanwhile.

    A context manager. At its end all but the last pieces of the files are on the disk.

    Raises:
        OSError: at a write, or at the end: something could not be written.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flush")
        self._flushes: list[Future[None]] = []
        self._dirty_bytes = 0

    def write_part(self, path: Path, start: int, content: Buffer) -> None:
        """Write all of `content` at `start`."""
        data = memoryview(content)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            write_at(descriptor, data, start)
        finally:
            os.close(descriptor)
        self._dirty_bytes += len(data)
        if self._dirty_bytes >= _PIECE_BYTES:
            self._flushes.append(self._executor.submit(flush, path))
            self._dirty_bytes = 0

    def __enter__(self) -> CachedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._executor.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for under_way in self._flushes:
                under_way.result()
