"""A packed micro-batch: samples one after another in a single row, as the model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_stare.policy.attention import AttentionPlan, plan_attention


class PackedSequences(PackedSeqParams):
    """Megatron's description of packed sequences, with what this project's attention reads."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = tuple(lengths)
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        super().__init__(
            qkv_format="thd",
            cu_seqlens_q=ends,
            cu_seqlens_kv=ends,
            max_seqlen_q=max(lengths),
            max_seqlen_kv=max(lengths),
        )
        self.positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        """int64 `[T]`, from 0 in each sequence."""

    @cached_property
    def attention_plan(self) -> AttentionPlan:
        """Worked out on first use: Transformer Engine's attention has no need of it."""
        return plan_attention(self.lengths, self.positions.device)


@dataclass(frozen=True, slots=True)
class PackedMicroBatch:
    """T packed tokens and which of them predict the n response tokens.

    input_ids, position_ids  int64 [1, T]
    rows                     int64 [n]     positions whose hidden state predicts a response token
    targets                  int64 [n]     those tokens, sample after sample
    """

    input_ids: Tensor
    position_ids: Tensor
    packed_seq_params: PackedSequences
    rows: Tensor
    targets: Tensor


def pack(
    sequences: Sequence[Tensor],
    prompt_lengths: Sequence[int],
    *,
    pad_to_multiple: int,
    device: torch.device,
) -> PackedMicroBatch:
    """Pack samples for the model.

    Padding is a sequence of its own after the last sample, and no row points into it. Without
    samples (a rank that has run out of them in a collective schedule) there is only padding.

    Args:
        sequences: int64 prompt + response tokens of each sample.
        prompt_lengths: tokens of each sample that are its prompt, at least 1.
        pad_to_multiple: T is a multiple of this.
    """
    lengths = [len(sequence) for sequence in sequences]
    total = sum(lengths)
    padding = -total % pad_to_multiple if total else pad_to_multiple
    padded = [*sequences, torch.zeros(padding, dtype=torch.int64)]
    packed = PackedSequences([*lengths, padding] if padding else lengths, device)
    input_ids = torch.cat(padded).to(device)
    spans = zip(pairwise([0, *accumulate(lengths)]), prompt_lengths, strict=True)
    response = [torch.arange(start + prompt, end) for (start, end), prompt in spans]
    predicted = torch.cat([*response, torch.empty(0, dtype=torch.int64)]).to(device)
    return PackedMicroBatch(
        input_ids=input_ids.unsqueeze(0),
        position_ids=packed.positions.unsqueeze(0),
        packed_seq_params=packed,
        rows=predicted - 1,
        targets=input_ids[predicted],
    )
