"""A file that is written fast, and is on the disk when it is closed."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Buffer
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from megatron_stare.system.direct_io import leave_direct, open_direct, page_memory, write_at

_BUFFER_BYTES = 1 << 24
_ALIGNMENT_BYTES = 64
"""Of the data in what `torch.save` writes, from where it begins."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file was when it was written: against damage, not against forgery."""

    size: int
    crc32: int


class DurableFile(io.RawIOBase):
    """A new file, written from its beginning to its end.

    What is written goes through two buffers: while one is filled, the other is on its way to the
    disk, past the system's cache of files where that can be, and into the checksum.

    Raises:
        OSError: from every method, where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = open_direct(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="durable")
        self._buffers = [page_memory(_BUFFER_BYTES) for _ in range(2)]
        self._filled = self._start = self._crc32 = 0
        self._under_way: list[Future[None]] = []

    def writable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self._start + self._filled

    def write(self, content: Buffer, /) -> int:
        """Write all of it, which is then no longer needed."""
        rest = np.frombuffer(content, np.uint8)
        num_bytes = len(rest)
        while len(rest):
            room = self._buffers[0][self._filled :]
            taken, rest = rest[: len(room)], rest[len(room) :]
            room[: len(taken)] = taken
            self._filled += len(taken)
            if self._filled == _BUFFER_BYTES:
                self._send()
        return num_bytes

    def write_tensor(self, tensor: Tensor) -> tuple[int, int]:
        """What `torch.save` writes, of a tensor on the host that has a storage of its own.

        Returns:
            Where it stands, and how long it is, in bytes.
        """
        self.write(bytes(-self.tell() % _ALIGNMENT_BYTES))
        start = self.tell()
        # torch writes data in small pieces, so it is asked for everything around it.
        with torch.serialization.skip_data():
            torch.save(tensor, cast(IO[bytes], _Around(self, tensor)))
        return start, self.tell() - start

    def finish(self) -> FileRecord:
        """Have it reach the disk; nothing can be written then."""
        size = self.tell()
        self._wait()
        leave_direct(self._descriptor)  # What is left is no whole number of pages.
        self._send()
        self._wait()
        os.fsync(self._descriptor)
        self.close()
        return FileRecord(size, self._crc32)

    def close(self) -> None:
        """Let it go, whole or not."""
        if not self.closed:
            self._executor.shutdown()
            os.close(self._descriptor)
        super().close()

    def _send(self) -> None:
        self._wait()
        piece, start = memoryview(self._buffers[0][: self._filled]), self._start
        self._under_way = [
            self._executor.submit(write_at, self._descriptor, piece, start),
            self._executor.submit(self._add_to_checksum, piece),
        ]
        self._start, self._filled = start + self._filled, 0
        self._buffers.reverse()

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, []
        for work in under_way:
            work.result()

    def _add_to_checksum(self, piece: memoryview) -> None:
        self._crc32 = zlib.crc32(piece, self._crc32)


class _Around(io.RawIOBase):
    """Where `torch.save` writes without data: it skips the bytes of the one tensor."""

    def __init__(self, file: DurableFile, tensor: Tensor) -> None:
        self._file = file
        self._data = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()

    def write(self, content: Buffer, /) -> int:
        return self._file.write(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        assert (offset, whence) == (self._data.nbytes, os.SEEK_CUR)
        self._file.write(self._data)
        return self._file.tell()
