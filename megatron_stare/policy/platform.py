"""Megatron-Core on the CPU: the same classes and schedules, on gloo, with nothing changed on disk.

Megatron-Core names CUDA all over: `device="cuda"`, `torch.cuda.current_device()`, streams, events,
the CUDA random state, `tensor.type() == "torch.cuda.FloatTensor"`. Without a GPU,
`install_cpu_platform` gives Megatron's modules, and no others, a `torch` in which CUDA is the CPU:
    `torch`                   in every megatron.core module, is a view of the real one: its `cuda`
                              answers for the CPU, its factories put `device="cuda"` there
    `Tensor.cuda`, `.type`    called from Megatron, answer as if the tensor were on a GPU
    the CUDA random state     is that of the CPU's generator, so activation recompute restores it
To the rest of the process (transformers in the embedded engine, say) torch is what it was. With a
GPU nothing is changed at all.

Importing this package imports Megatron-Core, quietly; without a GPU also without `torch.compile`,
which Megatron applies at import and which loads a compiler (4 s) that the CPU path does not use,
and without Transformer Engine, of which Megatron would take optimizer, norms of gradients and the
router's product: they need a GPU wherever they are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

_MEGATRON_MODULES = (
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "megatron.core.distributed",
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.models.mimo.model.base",
    "megatron.core.optimizer",
    "megatron.core.optimizer_param_scheduler",
    "megatron.core.pipeline_parallel",
)
_FACTORIES = ("arange", "empty", "empty_like", "full", "ones", "tensor", "zeros", "zeros_like")
_CPU = torch.device("cpu")
_NOTICES = (
    "torch.utils.cpp_extension",
    "megatron.core.models.gpt.gpt_model",
    "megatron.core.distributed.distributed_data_parallel",
    "megatron.core.dist_checkpointing.strategies.torch",
)


def install_cpu_platform() -> bool:
    """Let Megatron-Core run without a GPU; do nothing with one. Returns whether the CPU is used.

    May be called again, and has to be after importing further modules of Megatron-Core.
    """
    if torch.cuda.is_available():
        return False
    cpu_torch = _cpu_torch()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and vars(module).get("torch") is torch:
            vars(module)["torch"] = cpu_torch
    rng = sys.modules["megatron.core.tensor_parallel.random"]
    vars(rng).update(_get_cuda_rng_state=_get_rng_state, _set_cuda_rng_state=_set_rng_state)
    # Asks for an environment variable that orders CUDA kernels.
    linear = sys.modules["megatron.core.tensor_parallel.layers"]
    linear.linear_with_grad_accumulation_and_async_allreduce.warned = True
    dispatcher = sys.modules["megatron.core.transformer.moe.token_dispatcher"]
    vars(dispatcher).update(maybe_move_tensor_to_cpu=_as_numpy_if_asked)
    _answer_as_cuda()
    return True


@functools.cache
def _cpu_torch() -> types.ModuleType:
    """`torch` with its CUDA on the CPU."""
    cuda = _overlay(
        torch.cuda,
        current_device=lambda: _CPU,
        device_count=lambda: 1,
        synchronize=_nothing,
        empty_cache=_nothing,
        current_stream=_Stream,
        default_stream=_Stream,
        Stream=_Stream,
        Event=_Stream,
        stream=lambda stream: contextlib.nullcontext(),
        set_stream=_nothing,
        is_current_stream_capturing=lambda: False,
        memory_allocated=lambda device=None: 0,
        max_memory_allocated=lambda device=None: 0,
        memory_reserved=lambda device=None: 0,
        manual_seed=torch.manual_seed,
        get_rng_state=_get_rng_state,
        set_rng_state=_set_rng_state,
        nvtx=types.SimpleNamespace(range_push=_nothing, range_pop=_nothing),
    )
    factories = {name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}
    return _overlay(torch, cuda=cuda, **factories)


class _Overlay(types.ModuleType):
    """A module with some names replaced; what it lacks comes from the module underneath."""

    underneath: types.ModuleType

    def __getattr__(self, name: str) -> Any:
        return getattr(self.underneath, name)


def _overlay(module: types.ModuleType, **replaced: Any) -> types.ModuleType:
    view = _Overlay(module.__name__)
    # A copy of the names, so that Megatron's `torch.x` costs what it did.
    vars(view).update(vars(module), underneath=module, **replaced)
    return view


def _nothing(*args: Any, **kwargs: Any) -> None:
    """In place of a CUDA call that has no effect to reproduce."""


class _Stream:
    """A stream or event of a device that computes in program order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record_event(self, event: _Stream | None = None) -> _Stream:
        """An event that has happened."""
        return event or _Stream()

    record = record_stream = _nothing
    wait = wait_event = wait_stream = synchronize = _nothing


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def create(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is not None and str(device).startswith("cuda"):
            device = _CPU
        return factory(*args, device=device, **kwargs)

    return create


def _as_numpy_if_asked(
    tensor: torch.Tensor, as_numpy: bool = False, record_stream: bool = False
) -> Any:
    """Megatron's `maybe_move_tensor_to_cpu`, which converts only what comes from a GPU."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _get_rng_state(*args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(state: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    torch.set_rng_state(state)


@functools.cache
def _answer_as_cuda() -> None:
    """Make `tensor.type()` and `tensor.cuda()` speak of CUDA, to Megatron only."""
    real_type, real_cuda = torch.Tensor.type, torch.Tensor.cuda

    def cuda(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self if _asked_by_megatron() else real_cuda(self, *args, **kwargs)

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = real_type(self, *args, **kwargs)
        if isinstance(answer, str) and _asked_by_megatron():
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    torch.Tensor.cuda = cuda
    torch.Tensor.type = type_


def _asked_by_megatron() -> bool:
    """Whether the function that called the caller of this one belongs to Megatron-Core."""
    return sys._getframe(2).f_globals.get("__name__", "").startswith("megatron.core")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Import or build parts of Megatron without its notices (no Apex, GPTModel deprecated, ...)."""
    loggers = [logging.getLogger(name) for name in _NOTICES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Make `torch.compile` return the function it is given while Megatron is being imported."""
    real_compile = torch.compile
    torch.compile = lambda model=None, **options: model if model else lambda function: function
    try:
        yield
    finally:
        torch.compile = real_compile


def _import_megatron() -> None:
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        # What `import` takes for a module that is not installed, now and wherever Megatron asks.
        sys.modules["transformer_engine"] = None  # pyright: ignore[reportArgumentType]
    with quietly(), contextlib.nullcontext() if has_gpu else _without_compiler():
        for name in _MEGATRON_MODULES:
            importlib.import_module(name)


_import_megatron()
