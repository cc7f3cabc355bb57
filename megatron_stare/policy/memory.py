"""The device memory of a policy, given to others while it is not needed."""

from __future__ import annotations

from typing import Any

import torch

from megatron_stare.errors import UserError
from megatron_stare.policy.step import Policy


def check_can_offload(dtype: torch.dtype, device: torch.device) -> None:
    """UserError where the optimizer works on the parameters themselves: moving it would part them.

    In bfloat16 it has float32 copies of its own.
    """
    if device.type == "cuda" and dtype == torch.float32:
        raise UserError(
            "rollout.colocated=true with model.dtype=float32 on a GPU: expected bfloat16, whose "
            "optimizer state can leave the device"
        )


def offload(policy: Policy) -> None:
    """Keep parameters and optimizer state on the host; gradients are freed. Nothing on a CPU."""
    if policy.device.type == "cuda":
        policy.before_change()
        for buffer in _buffers(policy):
            buffer.offload_to_cpu()
        policy.optimizer.offload_to_cpu()
        torch.cuda.synchronize(policy.device)
        torch.cuda.empty_cache()


def onload(policy: Policy) -> None:
    """Undo `offload`; gradients are zero. Nothing on a CPU, or where nothing was offloaded."""
    if policy.device.type == "cuda":
        for buffer in _buffers(policy):
            buffer.reload_from_cpu()
        policy.optimizer.restore_from_cpu()
        torch.cuda.synchronize(policy.device)


def _buffers(policy: Policy) -> list[Any]:
    """Megatron's flat buffers of parameters and gradients."""
    chunks: list[Any] = policy.model
    return [b for chunk in chunks for b in (*chunk.buffers, *chunk.expert_parallel_buffers)]
