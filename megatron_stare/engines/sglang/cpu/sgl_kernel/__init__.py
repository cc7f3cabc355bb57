"""A stand-in for SGLang's compiled kernels, for servers on a CPU only.

The published `sgl_kernel` holds CUDA kernels and needs CUDA's libraries to be imported. On a CPU
SGLang computes with torch, but some of its modules import names from `sgl_kernel` all the same.
Here every name is a function that refuses to be called: nothing is imitated.

A torch that was built for CUDA takes CUDA for its device where there is none, and a server that is
asked to release memory waits for that device: in a server on a CPU there is nothing to wait for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import torch

if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
    torch.cuda.synchronize = lambda device=None: None


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Any name that is not Python's own, as a function that raises NotImplementedError."""
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} is a CUDA kernel; this server has no GPU")

    return refuse
