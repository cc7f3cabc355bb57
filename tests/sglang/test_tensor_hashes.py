"""Hashes of tensors are those that the servers' own code computes."""

import os
import subprocess

import pytest
import torch

from megatron_stare.engines.sglang.sync.tensor_hashes import hash_on_gpu
from tests.e2e.programs import REPO
from tests.sglang.servers import PYTHON, needs_servers

pytestmark = needs_servers


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return [
        torch.randn(1),
        torch.randn(3, dtype=torch.bfloat16),  # no whole number of words
        torch.randn(64, 128),  # one tile
        torch.randn(129, 128, dtype=torch.bfloat16),  # a word more
        torch.randn(7, 8192)[:, :8001].contiguous(),
        torch.zeros(2, 8192),
    ]


def test_on_a_gpu_they_are_those_of_the_kernel(tensors, tmp_path):
    torch.save(tensors, tmp_path / "tensors.pt")
    (kernel,) = PYTHON.parent.parent.glob("lib/*/site-packages/sglang/**/gpu_tensor_hash.py")
    done = subprocess.run(
        [PYTHON, REPO / "tests/sglang/hash_by_kernel.py", kernel, tmp_path / "tensors.pt"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [hash_on_gpu([tensor]) for tensor in tensors]
