"""Faults that a GPU would stop at, planted into the trainer: the fake device has to see each."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_stare.policy import inputs


def tokens_on_the_cpu() -> None:
    """Micro-batches are packed for the wrong device."""
    pack = inputs.pack
    inputs.pack = lambda *args, **kwargs: pack(*args, **(kwargs | {"device": torch.device("cpu")}))


def a_sum_on_the_cpu() -> None:
    """A tensor is copied to the CPU, summed over ranks there, and copied back."""
    all_reduce = dist.all_reduce

    def on_the_cpu(tensor, *args, **kwargs):
        copy = tensor.cpu()
        all_reduce(copy, *args, **kwargs)
        tensor.copy_(copy)

    dist.all_reduce = on_the_cpu


def a_sum_of_a_type_that_nccl_has_not() -> None:
    """Sums over ranks are of 16-bit integers."""
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, *args, **kwargs: all_reduce(tensor.short(), *args, **kwargs)
