"""Process groups of "nccl" run over gloo; the checks hold them to what NCCL takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def install() -> None:
    """Replace the two ways to make a group."""
    dist.init_process_group = _over_gloo(dist.init_process_group, 0)
    dist.new_group = _over_gloo(dist.new_group, 2)


def _over_gloo(make: Callable[..., Any], backend_at: int) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("device_id", None)
        positional = list(args)
        named = {"backend": positional[backend_at]} if len(positional) > backend_at else kwargs
        if "nccl" in str(named.get("backend")):
            if named is kwargs:
                kwargs["backend"] = "gloo"
            else:
                positional[backend_at] = "gloo"
        return make(*positional, **kwargs)

    return made
