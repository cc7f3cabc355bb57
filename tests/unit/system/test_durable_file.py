"""Files that are written past the cache hold what was written, and know what they hold."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
import torch

from megatron_stare.system.durable_file import DurableFile, FileRecord


@pytest.mark.parametrize("num_bytes", [0, 1, 1 << 24, (1 << 24) + 1, (1 << 25) + 4097])
def test_content_size_and_checksum(tmp_path, num_bytes):
    content = torch.randint(256, (num_bytes,), dtype=torch.uint8).numpy().tobytes()
    file = DurableFile(tmp_path / "file")
    for start in range(0, num_bytes, 5_000_011):
        file.write(content[start : start + 5_000_011])
    assert file.tell() == num_bytes
    assert file.finish() == FileRecord(num_bytes, zlib.crc32(content))
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (1100, 2000)], ids=str)
def test_tensors_are_as_torch_writes_them(tmp_path, dtype, shape):
    tensor = torch.randint(100, shape).to(dtype)
    file = DurableFile(tmp_path / "file")
    file.write(b"before")
    (start, length), _ = file.write_tensor(tensor), file.write_tensor(tensor)
    file.finish()
    assert start % 64 == 0
    written = (tmp_path / "file").read_bytes()[start : start + length]
    found = torch.load(io.BytesIO(written), weights_only=True)
    assert found.dtype == dtype
    assert found.equal(tensor)
    expected = io.BytesIO()
    torch.save(tensor, expected)
    assert len(written) == len(expected.getvalue())


def test_a_disk_that_is_full_is_told():
    file = DurableFile(Path("/dev/full"))
    file.write(b"content")
    with pytest.raises(OSError, match="No space left"):
        file.finish()
    file.close()
