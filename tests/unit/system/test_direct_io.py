"""Parts of a file, written past the cache, each in its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from megatron_stare.system.direct_io import write_part

MIB = 1 << 20
PAGE = 4096


@pytest.mark.parametrize(
    "ends",
    [
        [10],
        [10, 20, PAGE, PAGE + 1],
        [PAGE - 1, PAGE + 1, 2 * PAGE, 2 * PAGE, 5 * PAGE],
        [3, 9 * MIB + 5, 9 * MIB + 6, 17 * MIB + PAGE, 19 * MIB],
    ],
    ids=["in a page", "in two", "at the borders of pages", "of many pages"],
)
def test_parts_that_threads_write_in_any_order_make_the_file(tmp_path, ends):
    content = np.random.default_rng(0).integers(0, 256, ends[-1], np.uint8)
    path = tmp_path / "file"
    path.write_bytes(bytes(ends[-1]))
    parts = list(zip([0, *ends], ends, strict=False))
    with ThreadPoolExecutor(max_workers=len(parts)) as executor:
        list(
            executor.map(lambda part: write_part(path, part[0], content[slice(*part)]), parts[::-1])
        )
    assert np.array_equal(np.fromfile(path, np.uint8), content)


@pytest.mark.parametrize("num_bytes", [10, 3 * PAGE])
def test_a_disk_that_is_full_is_told(num_bytes):
    with pytest.raises(OSError, match="No space left"):
        write_part(Path("/dev/full"), 0, bytes(num_bytes))
