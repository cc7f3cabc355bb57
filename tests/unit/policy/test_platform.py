"""Megatron-Core sees a GPU where there is none; everything else in the process sees the truth."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from megatron_stare.policy.platform import install_cpu_platform
from tests.worlds import run_world

# isort: split
from megatron.core import tensor_parallel
from megatron.core.optimizer import clip_grads
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker


@pytest.fixture(autouse=True)
def cpu_platform() -> None:
    assert install_cpu_platform()


def test_factories_and_devices_of_megatron_are_on_the_cpu():
    megatron_torch = clip_grads.torch
    assert megatron_torch.zeros(2, device="cuda").device.type == "cpu"
    assert megatron_torch.empty(2, device=megatron_torch.cuda.current_device()).device.type == "cpu"
    megatron_torch.cuda.current_stream().wait_stream(megatron_torch.cuda.Stream())
    assert megatron_torch.matmul is torch.matmul


def test_the_rest_of_the_process_keeps_its_torch():
    assert torch.ones(1).type() == "torch.FloatTensor"
    assert torch.ones(1).type(torch.float64).dtype == torch.float64
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1).cuda()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")


def test_installing_again_changes_nothing():
    before = clip_grads.torch
    assert install_cpu_platform()
    assert clip_grads.torch is before


def with_cuda(rank: int) -> list[str]:
    """What an installation changes in a fresh process that claims a GPU."""

    def state() -> dict[str, object]:
        modules = {n: m for n, m in sys.modules.items() if n.startswith("megatron.core")}
        rng = modules["megatron.core.tensor_parallel.random"]
        return {
            **{name: vars(module).get("torch") for name, module in modules.items()},
            "type": torch.Tensor.type,
            "cuda": torch.Tensor.cuda,
            "rng": (rng._get_cuda_rng_state, rng._set_cuda_rng_state),
        }

    before = state()
    torch.cuda.is_available = lambda: True
    assert install_cpu_platform() is False
    return [name for name, value in state().items() if value != before[name]]


def test_inert_with_cuda():
    assert run_world(1, with_cuda) == [[]]


def test_recompute_restores_the_random_state():
    get_cuda_rng_tracker()
    x = torch.randn(64, requires_grad=True)

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5) * x

    torch.manual_seed(3)
    (plain,) = torch.autograd.grad(noisy(x).sum(), x)
    torch.manual_seed(3)
    tensor_parallel.checkpoint(noisy, False, x).sum().backward()
    torch.testing.assert_close(x.grad, plain, rtol=0, atol=0)


def test_tracked_random_states_are_streams_of_their_own():
    tracker = get_cuda_rng_tracker()

    def draws() -> list[torch.Tensor]:
        tensor_parallel.model_parallel_cuda_manual_seed(5, tp_rank=0, ep_rank=0, etp_rank=0)
        numbers = []
        for _ in range(2):
            with tracker.fork():
                numbers.append(torch.rand(3))
            numbers.append(torch.rand(3))
        return numbers

    first, second = draws(), draws()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({tuple(numbers.tolist()) for numbers in first}) == 4
