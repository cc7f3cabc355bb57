"""Random states go on where the kind of device is the one that saved them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.policy.checkpoint import set_rng_state
from tests.worlds import run_world

# isort: split
from megatron.core.tensor_parallel import get_cuda_rng_tracker

pytestmark = pytest.mark.slow


def rng_after(rank: int, saved_gpu: Tensor | None, claims_gpu: bool) -> list[bool]:
    """Which random states a policy takes over: of the CPU, of the GPU, of the tracker."""
    generator = torch.Generator().manual_seed(5)
    cpu, gpu, tracker = generator.get_state(), torch.ones(16, dtype=torch.uint8), {"of": "a run"}
    taken: list[Tensor] = []
    torch.cuda.is_available = lambda: claims_gpu
    torch.cuda.set_rng_state = taken.append  # pyright: ignore[reportAttributeAccessIssue]
    set_rng_state({"cpu": cpu, "gpu": saved_gpu, "tracker": tracker})
    return [
        torch.equal(torch.get_rng_state(), cpu),
        bool(taken) and torch.equal(taken[0], gpu),
        get_cuda_rng_tracker().get_states() == tracker,
    ]


ON_A_GPU = torch.ones(16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("saved_gpu", "claims_gpu", "expected"),
    [
        (None, False, [True, False, True]),
        (None, True, [True, False, False]),
        (ON_A_GPU, True, [True, True, True]),
        (ON_A_GPU, False, [True, False, False]),
    ],
)
def test_random_states_of_another_kind_of_device_are_left(saved_gpu, claims_gpu, expected):
    assert run_world(1, rng_after, saved_gpu, claims_gpu) == [expected]
