"""What the fake device takes and refuses, each next to what CUDA does; `programs` runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import torch.distributed as dist

from tests.gpu_rehearsal.fake_cuda import DeviceMixup, Record


def outcomes(record: Record) -> dict[str, str]:
    """Every case below by name: "taken", or the name of what it raised."""
    dist.init_process_group("cpu:gloo,cuda:nccl", store=dist.HashStore(), rank=0, world_size=1)
    return {name: _outcome(case) for name, case in (_taken() | _refused()).items()}


def _outcome(case: Callable[[], object]) -> str:
    try:
        case()
    except (DeviceMixup, TypeError) as error:
        return type(error).__name__
    return "taken"


def _taken() -> dict[str, Callable[[], object]]:
    here, there = torch.arange(3.0), torch.arange(3.0, device="cuda")
    buffer, matrix = torch.zeros(3, device="cuda"), torch.eye(3, device="cuda").bfloat16()
    return {
        "taken: a number from the CPU": lambda: there * torch.tensor(2.0),
        "taken: CPU indices into a CUDA tensor": lambda: there[torch.tensor([0, 2])],
        "taken: copies either way": lambda: (buffer.copy_(here), here.copy_(buffer)),
        "taken: a gradient through a move": lambda: _gradient_comes_home(here),
        "taken: a float32 product of bfloat16": lambda: torch.mm(
            matrix, matrix, out_dtype=torch.float32
        ),
        "taken: objects over gloo": lambda: dist.all_gather_object([None], "an object"),
        "taken: a sum over ranks": lambda: dist.all_reduce(there.clone()),
    }


def _refused() -> dict[str, Callable[[], object]]:
    here, there = torch.arange(3.0), torch.arange(3.0, device="cuda")
    return {
        "refused: a sum of both": lambda: here + there,
        "refused: a view, too": lambda: here[:2] * there.view(3, 1)[:2, 0],
        "refused: a sum into a number on the CPU": lambda: torch.tensor(0.0).add_(there[0]),
        "refused: CUDA indices into a CPU tensor": lambda: here[torch.tensor([0], device="cuda")],
        "refused: CPU values into a CUDA tensor": lambda: there.index_put_(
            (torch.tensor([0, 1], device="cuda"),), here[:2]
        ),
        "refused: a list of both": lambda: torch.cat([here, there]),
        "refused: numpy of a CUDA tensor": lambda: there.numpy(),
        "refused: in another thread": lambda: _in_a_thread(lambda: here + there),
        "refused: a CPU tensor's sum over ranks": lambda: dist.all_reduce(here.clone()),
        "refused: a collective of both": lambda: dist.all_gather([here.clone()], there),
        "refused: 16-bit integers over NCCL": lambda: dist.all_reduce(there.short()),
    }


def _gradient_comes_home(tensor: torch.Tensor) -> None:
    leaf = tensor.clone().requires_grad_()
    (leaf.to("cuda") * torch.ones(3, device="cuda")).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.device.type == "cpu"


def _in_a_thread(function: Callable[[], object]) -> None:
    raised: list[Exception] = []

    def run() -> None:
        try:
            function()
        except DeviceMixup as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
