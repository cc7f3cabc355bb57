"""Writing through the cache, flushed meanwhile: whole, or an error."""

import errno
import os
from pathlib import Path

import pytest

from megatron_stare.system import cached_io
from megatron_stare.system.cached_io import CachedWriter


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(cached_io, "_PIECE_BYTES", 1000)


@pytest.mark.usefixtures("small_pieces")
def test_parts_may_come_in_any_order(tmp_path):
    path, content = tmp_path / "file", os.urandom(10_000)
    path.touch()
    with CachedWriter() as writer:
        for start, end in ((7000, 9999), (300, 2900), (0, 300), (2900, 7000), (9999, 10_000)):
            writer.write_part(path, start, content[start:end])
    assert path.read_bytes() == content


@pytest.mark.usefixtures("small_pieces")
def test_a_flush_that_fails_is_told_at_the_end(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "I/O error", str(path))

    monkeypatch.setattr(cached_io, "flush", fail)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="I/O error"), CachedWriter() as writer:
        writer.write_part(tmp_path / "file", 0, bytes(5000))


def test_a_disk_that_is_full_is_told():
    with pytest.raises(OSError, match="No space left"), CachedWriter() as writer:
        writer.write_part(Path("/dev/full"), 0, bytes(10))
