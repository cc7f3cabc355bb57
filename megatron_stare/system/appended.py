"""A log that grows by whole pieces, whatever becomes of the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_stare.system.outage import Outage


class AppendedFile:
    """The file at `path`, opened for each piece: a folder that is gone does not go unnoticed.

    A piece that cannot be written leaves the file as it was. It is kept, and comes before the next;
    `report` is told when that begins.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path = path
        self._outage = Outage(str(path), report)
        self._unwritten = b""
        self.append(b"")

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self._path.stat().st_size if self._path.exists() else 0

    def append(self, piece: bytes) -> None:
        """Add a piece, and what could not be written before it; the file is made if need be."""
        self._unwritten += piece
        with self._outage.tolerated():
            append_whole(self._path, self._unwritten)
            self._unwritten = b""

    def close(self) -> None:
        """Try once more to write what could not be."""
        if self._unwritten:
            self.append(b"")


def append_whole(path: Path, content: bytes) -> None:
    """Add to a file, which is made if need be; OSError, with nothing added, where that fails."""
    with path.open("ab", buffering=0) as file:
        start, rest = file.tell(), memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(start)
            raise
