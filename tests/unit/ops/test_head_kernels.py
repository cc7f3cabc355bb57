"""The Triton kernels of the head, and the choice between them and torch's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megatron_stare.errors import UserError
from megatron_stare.ops.head_kernels import (
    TORCH,
    Disagreement,
    HeadKernels,
    disagreement,
    kernels_for,
    trusted,
)
from megatron_stare.ops.head_tiles import Tile

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
        "is_many": "u1",
        **dict.fromkeys(bfloat16, "*bf16"),
    }
    arguments = kernel.fn.arg_names
    assert {*kernel.keys} <= {*arguments}  # the tuner passes over unknown ones in silence
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


def head_triton():
    pytest.importorskip("triton")
    from megatron_stare.ops import head_triton

    return head_triton


def test_the_tuner_chooses_of_several_tiles_or_has_the_one_that_is_pinned():
    module = head_triton()
    every = module.configs(None)
    assert len(every) == 6
    (config,) = module.configs("64x128x32x4x4")
    assert config.kwargs == {"ROWS": 64, "COLS": 128, "DEPTH": 32, "GROUP": 8}
    assert (config.num_warps, config.num_stages) == (4, 4)


@pytest.mark.parametrize("name", ["", "128x256x64", "128x256x64x8x5", "fast"])
def test_a_tile_that_there_is_not_is_an_error_with_those_that_there_are(name):
    with pytest.raises(UserError, match=f"MEGATRON_STARE_HEAD_TILE={name}: .*64x128x32x4x4"):
        head_triton().configs(name)


def test_a_wrong_name_of_a_tile_is_not_taken_for_a_broken_kernel():
    def load() -> HeadKernels:
        raise UserError("MEGATRON_STARE_HEAD_TILE=fast")

    with pytest.raises(UserError):
        trusted(load, CPU, torch.bfloat16)


def sums_off_as_in_training(hidden, columns, *others):
    """As a kernel whose binary for weights that divide by 16, and tokens that do not, is wrong."""
    partial = TORCH.partial(hidden, columns, *others)
    is_that_binary = hidden.shape[1] % 16 == len(columns) % 16 == 0 and len(hidden) % 16 != 0
    partial[1] *= 1.01 if is_that_binary else 1.0
    return partial


def test_the_binary_that_training_runs_is_part_of_the_proof():
    kernels = TORCH._replace(partial=sums_off_as_in_training)
    allowed = Disagreement.allowed(torch.float32)
    assert disagreement(kernels, CPU, torch.float32).partial > allowed.partial


def test_a_cpu_takes_torch():
    assert kernels_for(CPU, torch.float32) is TORCH


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernels_that_agree_are_trusted(dtype):
    def rounded(*inputs):
        return TORCH.d_logits(*inputs).to(dtype)

    kernels = TORCH._replace(d_logits=rounded)
    assert trusted(lambda: kernels, CPU, dtype) is kernels
    errors = zip(disagreement(kernels, CPU, dtype), Disagreement.allowed(dtype), strict=True)
    assert all(error <= bound / 3 for error, bound in errors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_in_another_order_are_trusted(dtype):
    """Hidden sizes summed from the other end, columns merged from tiles of another size."""

    def partial(hidden, columns, targets, temperature, tile, kept):
        case = (hidden.flip(1), columns.flip(1), targets, temperature)
        return TORCH.partial(*case, Tile(50, 300), kept)

    def d_logits(hidden, columns, targets, terms):
        return TORCH.d_logits(hidden.flip(1), columns.flip(1), targets, terms).to(dtype)

    kernels = HeadKernels(partial, d_logits)
    assert trusted(lambda: kernels, CPU, dtype) is kernels
    assert disagreement(kernels, CPU, dtype).partial <= 1e-5


def partial_off(hidden, columns, *others):
    return TORCH.partial(hidden, columns, *others) * 1.01


def partial_nan(hidden, columns, *others):
    return TORCH.partial(hidden, columns, *others) * torch.nan


def sums_off_if_aligned(hidden, columns, *others):
    """As a kernel with a race in its pipelined loads, which sizes that divide by 16 have."""
    partial = TORCH.partial(hidden, columns, *others)
    partial[1] *= 1.01 if hidden.shape[1] % 16 == 0 else 1.0
    return partial


def d_logits_off_without_an_entropy_gradient(hidden, columns, targets, terms):
    d_logits = TORCH.d_logits(hidden, columns, targets, terms)
    return d_logits * (1.05 if terms.moment_weight is None else 1.0)


def d_logits_off_beside_the_target(hidden, columns, targets, terms):
    """The target's entry, the only large one, is right."""
    d_logits = TORCH.d_logits(hidden, columns, targets, terms)
    is_target = torch.arange(len(columns)) == targets[:, None]
    return torch.where(is_target, d_logits, 1.05 * d_logits)


@pytest.mark.parametrize(
    "fault",
    [
        {"partial": partial_off},
        {"partial": partial_nan},
        {"partial": sums_off_if_aligned},
        {"d_logits": d_logits_off_without_an_entropy_gradient},
        {"d_logits": d_logits_off_beside_the_target},
    ],
    ids=lambda fault: next(iter(fault.values())).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_disagree_are_replaced_with_a_warning_that_has_the_numbers(fault, dtype):
    (half,) = fault
    bound = f"{getattr(Disagreement.allowed(dtype), half):.2g}"
    message = rf"differ from torch by \S+ in {half}, more than {bound}; using torch"
    with pytest.warns(RuntimeWarning, match=message):
        assert trusted(lambda: TORCH._replace(**fault), CPU, dtype) is TORCH


def test_a_warning_names_both_halves_where_both_are_wrong():
    kernels = HeadKernels(partial_off, d_logits_off_beside_the_target)
    message = r"\S+ in partial, more than 0.0001 and by \S+ in d_logits, more than 0.0001; using"
    with pytest.warns(RuntimeWarning, match=message):
        assert trusted(lambda: kernels, CPU, torch.float32) is TORCH


def test_kernels_that_fail_are_replaced_with_a_warning_that_has_the_reason():
    def failing(*inputs):
        raise OSError("no compiler")

    kernels = TORCH._replace(d_logits=failing)
    with pytest.warns(RuntimeWarning, match="failed with OSError: no compiler; using torch"):
        assert trusted(lambda: kernels, CPU, torch.float32) is TORCH


def test_without_triton_torch_takes_over_with_a_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # the import fails
    monkeypatch.delitem(sys.modules, "megatron_stare.ops.head_triton", raising=False)
    choose = kernels_for.__wrapped__  # a GPU's answer is not to be cached
    with pytest.warns(RuntimeWarning, match="failed with ModuleNotFoundError: .*triton"):
        assert choose(torch.device("cuda"), torch.bfloat16) is TORCH
