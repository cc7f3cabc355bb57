"""A packed micro-batch: samples one after another in a single row, as the model takes them.

Under context parallelism a rank holds its part of every sample (see `context`). Labels are shifted
in the whole pack, before it is split: a response token is predicted on the rank that holds the
position before it, wherever the token itself is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_stare.config.policy import padded_length
from megatron_stare.policy.attention import AttentionPlan, plan_attention
from megatron_stare.policy.context import held_tokens
from megatron_stare.policy.context_attention import ContextAttentionPlan, plan_context_attention


class PackedSequences(PackedSeqParams):
    """Megatron's description of packed sequences, with what this project's attention reads.

    Args:
        lengths: tokens of each sequence, over all context-parallel ranks.
    """

    def __init__(
        self, lengths: Sequence[int], device: torch.device, *, cp_rank: int = 0, cp_size: int = 1
    ) -> None:
        self.lengths = tuple(lengths)
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        super().__init__(
            qkv_format="thd",
            cu_seqlens_q=ends,
            cu_seqlens_kv=ends,
            max_seqlen_q=max(lengths),
            max_seqlen_kv=max(lengths),
        )
        self.cp_rank, self.cp_size = cp_rank, cp_size
        self.held = held_tokens(lengths, cp_rank, cp_size).to(device)
        """int64 `[T / cp_size]`: the tokens on this rank."""
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        self.positions = positions[self.held]
        """int64 `[T / cp_size]`: position in its sequence of each token on this rank."""

    @cached_property
    def attention_plan(self) -> AttentionPlan:
        """Worked out on first use: Transformer Engine's attention has no need of it."""
        return plan_attention(self.lengths, self.positions.device)

    @cached_property
    def context_plan(self) -> ContextAttentionPlan:
        """The same for context parallelism."""
        return plan_context_attention(
            self.lengths, self.cp_rank, self.cp_size, self.positions.device
        )


@dataclass(frozen=True, slots=True)
class PackedMicroBatch:
    """One rank's part of T packed tokens, and which of them predict counted response tokens.

    input_ids, position_ids  int64 [1, T / cp_size]
    rows        int64 [n]  tokens on this rank whose hidden state predicts a counted token
    targets     int64 [n]  those counted tokens
    places      int64 [n]  where they stand among the micro-batch's response tokens
    num_tokens             response tokens of the micro-batch, over all context-parallel ranks,
                           sample after sample, counted or not
    response_lengths       of each sample; they sum to num_tokens
    """

    input_ids: Tensor
    position_ids: Tensor
    packed_seq_params: PackedSequences
    rows: Tensor
    targets: Tensor
    places: Tensor
    num_tokens: int
    response_lengths: tuple[int, ...]


def pack(
    sequences: Sequence[Tensor],
    prompt_lengths: Sequence[int],
    loss_masks: Sequence[Tensor] | None = None,
    *,
    pad_to_multiple: int,
    device: torch.device,
    cp_rank: int = 0,
    cp_size: int = 1,
) -> PackedMicroBatch:
    """Pack samples for the model, and take this rank's part.

    Padding stands after the sample that it fills up for context parallelism, where nothing looks,
    and after the last one as a sequence of its own; no row points into it. Without samples (a rank
    that has run out of them in a collective schedule) there is only padding.

    Args:
        sequences: int64 prompt + response tokens of each sample.
        prompt_lengths: tokens of each sample that are its prompt, at least 1.
        loss_masks: bool, which response tokens of each sample are counted; None for all.
        pad_to_multiple: T is a multiple of this, which is one of `sample_multiple(cp_size)`.
    """
    lengths = [padded_length(len(sequence), cp_size) for sequence in sequences]
    total = sum(lengths)
    if padding := -total % pad_to_multiple if total else pad_to_multiple:
        lengths.append(padding)
    packed = PackedSequences(lengths, device, cp_rank=cp_rank, cp_size=cp_size)
    starts = [0, *accumulate(lengths)]
    input_ids = torch.zeros(starts[-1], dtype=torch.int64)
    response = [torch.empty(0, dtype=torch.int64)]
    for sequence, prompt, start in zip(sequences, prompt_lengths, starts, strict=False):
        input_ids[start : start + len(sequence)] = sequence
        response.append(torch.arange(start + prompt, start + len(sequence)))
    predicted = torch.cat(response).to(device)
    input_ids = input_ids.to(device)
    row_of_token = torch.full_like(input_ids, -1)
    row_of_token[packed.held] = torch.arange(len(packed.held), device=device)
    rows = row_of_token[predicted - 1]
    is_here = rows >= 0
    if loss_masks:
        is_here &= torch.cat([*loss_masks]).to(device)
    places = is_here.nonzero().squeeze(1)
    return PackedMicroBatch(
        input_ids=input_ids[packed.held].unsqueeze(0),
        position_ids=packed.positions.unsqueeze(0),
        packed_seq_params=packed,
        rows=rows[places],
        targets=input_ids[predicted[places]],
        places=places,
        num_tokens=len(predicted),
        response_lengths=tuple(len(part) for part in response[1:]),
    )
