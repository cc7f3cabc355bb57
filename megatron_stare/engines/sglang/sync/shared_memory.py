"""Memory that a server opens by a name of torch's: a tensor here, no copy on the way.

torch's own sharing by file names leaves a daemon behind with every sender for as long as a
receiver lives. Here the receivers keep their own, which remove a name once it was used; so each
gets one, a link to the same file. The layout is what torch maps: a reference count, then the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from megatron_stare.errors import UserError

_FOLDER = Path("/dev/shm")
_PREFIX = "megatron_stare_"
_HEADER_BYTES = 64
_REFERENCES = 1 << 30
"""More than receivers ever give back: at zero they would take the file for unused."""


class SharedBuffer:
    """`tensor`, uint8 [size], in memory that other processes can open; `path`, its file.

    Raises UserError where the machine has no room for it.
    """

    def __init__(self, size: int) -> None:
        _remove_abandoned()
        self._names: list[Path] = []
        self.path = _FOLDER / f"{_PREFIX}{uuid4().hex}"
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # lasts as long as this process has it open
        try:
            os.posix_fallocate(self._file, 0, _HEADER_BYTES + size)
        except OSError as error:
            self.close()
            raise UserError(
                f"rollout.servers.transport=tensor: no room in {_FOLDER} for a bucket of {size} "
                f"bytes ({error}); expected a larger {_FOLDER} or a smaller bucket_mib"
            ) from None
        memory = mmap.mmap(self._file, _HEADER_BYTES + size)
        struct.pack_into("i", memory, 0, _REFERENCES)
        self.tensor: Tensor = torch.frombuffer(memory, dtype=torch.uint8, offset=_HEADER_BYTES)

    @contextmanager
    def named(self, count: int) -> Iterator[list[str]]:
        """So many names, each for one receiver to open inside the block.

        Where the block fails they last: a receiver that comes back to one that is gone would die.
        """
        paths = [_FOLDER / f"{_PREFIX}{uuid4().hex}" for _ in range(count)]
        for path in paths:
            os.link(self.path, path)
        self._names += paths
        yield [f"/{path.name}" for path in paths]
        self._remove(paths)

    def close(self) -> None:
        """Give the memory back when `tensor` and the receivers have let go of it."""
        self._remove([self.path, *self._names])
        os.close(self._file)

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            path.unlink(missing_ok=True)
            self._names = [name for name in self._names if name != path]


def _remove_abandoned() -> None:
    """Remove what processes left that were killed: nobody holds its lock."""
    for path in _FOLDER.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
