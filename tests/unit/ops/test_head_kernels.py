"""The Triton kernels of the head, and the choice between them and torch's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megatron_stare.ops.head_kernels import TORCH, disagreement, kernels_for, trusted

CPU = torch.device("cpu")
CASES = Path(__file__).with_name("triton_head_cases.py")


def run_cases(**environment: str) -> None:
    """In a process of its own, because Triton reads TRITON_INTERPRET once, when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_cases(TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_triton_kernels_on_a_gpu():
    run_cases()


@pytest.mark.parametrize("name", ["_partial_kernel", "_d_logits_kernel"])
def test_triton_kernels_compile_for_hopper(name, tmp_path, monkeypatch):
    """Without a GPU: to tensor-core instructions, within a block's 227 KiB of shared memory."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from megatron_stare.ops import head_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(head_triton, name)
    config = kernel.configs[0]
    constants = {"SPLIT": 1024, "moment_weights": None, **config.kwargs}
    bfloat16 = ("hidden", "columns", "d_logits")
    types = {
        "targets": "*i64",
        "n": "i32",
        "v": "i32",
        "h": "i32",
        **dict.fromkeys(bfloat16, "*bf16"),
    }
    arguments = kernel.fn.arg_names
    source = ASTSource(
        kernel.fn,
        {
            name: "constexpr" if name in constants else types.get(name, "*fp32")
            for name in arguments
        },
        {(i,): constants[name] for i, name in enumerate(arguments) if name in constants},
        {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(arguments)
            if name not in constants
        },
    )
    compiled = compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 227 * 1024


def test_a_cpu_takes_torch():
    assert kernels_for(CPU, torch.float32) is TORCH


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_agree_are_trusted(dtype):
    def rounded(*inputs):
        return TORCH.d_logits(*inputs).to(dtype)

    kernels = TORCH._replace(d_logits=rounded)
    assert trusted(kernels, CPU, dtype) is kernels


@pytest.mark.parametrize("wrong", [1.01, torch.nan])
def test_kernels_that_disagree_are_replaced_with_a_warning_that_has_the_numbers(wrong):
    def scaled(*inputs):
        return TORCH.partial(*inputs) * wrong

    kernels = TORCH._replace(partial=scaled)
    assert disagreement(kernels, CPU, torch.float32) > 1e-3
    with pytest.warns(RuntimeWarning, match=r"differ from torch by \S+, more than 0\.0001; using"):
        assert trusted(kernels, CPU, torch.float32) is TORCH


def test_kernels_that_fail_are_replaced_with_a_warning_that_has_the_reason():
    def failing(*inputs):
        raise OSError("no compiler")

    with pytest.warns(RuntimeWarning, match="failed with OSError: no compiler; using torch"):
        assert trusted(TORCH._replace(d_logits=failing), CPU, torch.float32) is TORCH
