"""What the policy is given of each micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_stare.data.packing import MicroBatches
from megatron_stare.policy.groups import ParallelGroups
from megatron_stare.policy.packed import PackedMicroBatch, pack
from megatron_stare.types import RolloutBatch, TokenBatch


@dataclass(frozen=True, slots=True)
class MicroBatchInputs:
    """One micro-batch.

    packed       its samples in a row
    tokens       where its response tokens stand in this rank's flat order
    temperature  one, or that of each response token, float32 `[num_tokens]`
    """

    packed: PackedMicroBatch
    tokens: slice
    temperature: float | Tensor


def inputs_of(
    batch: TokenBatch,
    micro_batches: MicroBatches,
    groups: ParallelGroups,
    *,
    temperature: float,
    device: torch.device,
) -> list[MicroBatchInputs]:
    """The inputs of each micro-batch, in order; `temperature` where tokens have none of their own.

    One without samples is packed, too: the schedules are collective.
    """
    inputs, start = [], 0
    temperatures = _temperatures(batch, micro_batches, temperature, device)
    for packed, own in zip(
        _packed(batch, micro_batches, groups, device), temperatures, strict=True
    ):
        end = start + packed.num_tokens
        inputs.append(MicroBatchInputs(packed, slice(start, end), own))
        start = end
    return inputs


def _packed(
    batch: TokenBatch, micro_batches: MicroBatches, groups: ParallelGroups, device: torch.device
) -> list[PackedMicroBatch]:
    sequences = batch.token_ids.split(batch.lengths.tolist())
    loss_masks = batch.loss_mask.split(batch.response_lengths.tolist())
    prompt_lengths = batch.prompt_lengths.tolist()
    return [
        pack(
            [sequences[i] for i in samples],
            [prompt_lengths[i] for i in samples],
            [loss_masks[i] for i in samples],
            pad_to_multiple=groups.sequence_multiple,
            device=device,
            cp_rank=groups.cp.rank(),
            cp_size=groups.cp.size(),
        )
        for samples in micro_batches
    ]


def _temperatures(
    batch: TokenBatch, micro_batches: MicroBatches, temperature: float, device: torch.device
) -> Sequence[float | Tensor]:
    """Of the response tokens of each micro-batch: those which they were drawn at."""
    own = batch.temperatures if isinstance(batch, RolloutBatch) else None
    if own is None:
        return [temperature] * len(micro_batches)
    of_samples = own.nan_to_num(temperature).split(batch.response_lengths.tolist())
    nothing = own.new_empty(0)
    return [
        torch.cat([nothing, *(of_samples[i] for i in samples)]).to(device)
        for samples in micro_batches
    ]
