"""`torch.cuda` as on a node of eight H100, with nothing behind it."""

from __future__ import annotations

import contextlib
import os
import types
from typing import Any

import torch

_MEMORY = 80 << 30
_NAME = "NVIDIA H100 80GB HBM3"


def install() -> None:
    """Give `torch.cuda` its answers."""
    for name, answer in _answers().items():
        setattr(torch.cuda, name, answer)
    torch.cuda.random.get_rng_state = _get_rng_state  # pyright: ignore[reportAttributeAccessIssue]
    torch.cuda.random.set_rng_state = _set_rng_state  # pyright: ignore[reportAttributeAccessIssue]
    torch.optim.Optimizer._accelerator_graph_capture_health_check = _nothing


class _Stream:
    """A stream or an event: everything before it has happened."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record_event(self, event: _Stream | None = None) -> _Stream:
        return event or _Stream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: _Stream) -> float:
        return 1.0

    def synchronize(self, *args: Any) -> None:
        pass

    record = wait = wait_event = wait_stream = synchronize


class _Generator:
    """The CPU's, which is the only one."""

    def get_state(self) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)

    def initial_seed(self) -> int:
        return torch.initial_seed()

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _get_rng_state(device: Any = None) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    torch.set_rng_state(state)


def _current_device() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def _properties(device: Any = None) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        name=_NAME,
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=_MEMORY,
        uuid="00000000-0000-0000-0000-000000000000",
        shared_memory_per_block_optin=232_448,
    )


def _answers() -> dict[str, Any]:
    zero = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
    silent = ("set_device", "synchronize", "empty_cache", "ipc_collect", "set_stream", "_lazy_init")
    no_context = ("stream", "device")
    one_stream = ("current_stream", "default_stream")
    return {
        **{name: lambda *args, **kwargs: 0 for name in zero},
        **dict.fromkeys((*silent, "reset_peak_memory_stats", "manual_seed_all"), _nothing),
        **{name: lambda *args: contextlib.nullcontext() for name in no_context},
        **{name: lambda *args: _Stream() for name in one_stream},
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 8,
        "current_device": _current_device,
        "get_device_capability": lambda *args: (9, 0),
        "get_device_name": lambda *args: _NAME,
        "get_device_properties": _properties,
        "Stream": _Stream,
        "Event": _Stream,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda *args, **kwargs: True,
        "mem_get_info": lambda *args: (_MEMORY, _MEMORY),
        "memory_stats": lambda *args: {},
        # The CPU's generator is seeded by whoever seeds both.
        "manual_seed": _nothing,
        "get_rng_state": _get_rng_state,
        "set_rng_state": _set_rng_state,
        "default_generators": tuple(_Generator() for _ in range(8)),
        "nvtx": types.SimpleNamespace(
            range_push=_nothing, range_pop=_nothing, range=lambda *args: contextlib.nullcontext()
        ),
    }
