"""The head's kernels fit into a Hopper and a Blackwell multiprocessor, spilling next to nothing."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import run_forked

KERNELS = ("_partial_kernel", "_d_logits_kernel")
SHARED_BYTES = 227 * 1024
"""What a block may have, of either."""


def binaries(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What `head_binaries` says of each config, in a process that caches nothing elsewhere."""
    done = run_forked(compile_in, [str(folder), *arguments])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def compile_in(command: list[str]) -> None:
    """`FOLDER CAPABILITY KERNEL CONFIG...`, with the folder as cache."""
    os.environ["TRITON_CACHE_DIR"], *arguments = command
    from tests.gpu_rehearsal.head_binaries import main

    main(arguments)


@pytest.mark.parametrize(
    ("capability", "configs", "max_spilled"),
    [
        # Every config that the tuner tries on a Hopper: 76 bytes at most, in the epilogue.
        pytest.param("90", (), 96, id="sm_90"),
        # On a Blackwell those that compile within seconds; the others take minutes of one core.
        pytest.param("100", ("0", "4", "5"), 160, id="sm_100"),
    ],
)
def test_binaries_fit(capability, configs, max_spilled, tmp_path):
    pytest.importorskip("triton")

    def compiled(kernel: str) -> list[dict[str, Any]]:
        return binaries(tmp_path / kernel, capability, kernel, *configs)

    with ThreadPoolExecutor(2) as pool:
        found = [binary for of_kernel in pool.map(compiled, KERNELS) for binary in of_kernel]
    assert len(found) >= 2 * 3
    for binary in found:
        assert binary["registers"] <= 255, binary
        assert binary["spilled"] <= max_spilled, binary
        assert binary["shared"] <= SHARED_BYTES, binary
        assert binary["tensor_cores"], binary
        assert binary["asynchronous_copies"], binary
