"""What the LM head says beside log-probs and entropies, where a method asks: `HeadNeed`s."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_stare.algorithms.hooks import HeadNeed
from megatron_stare.algorithms.needs import HiddenRanks, MinPLogprobs
from megatron_stare.ops.effective_rank import rank_dynamics
from megatron_stare.ops.min_p import min_p_logprobs
from megatron_stare.ops.partials import TokenScores
from megatron_stare.policy.context import gather_scores
from megatron_stare.policy.model import PolicyConfig
from megatron_stare.policy.packed import PackedMicroBatch


class HeadView(NamedTuple):
    """What the head has of the n counted tokens that this rank holds.

    hidden       float `[n, hidden]`: the states after the last norm that predict them
    weight       this rank's rows of the output weight
    scores       float32 `[n]` each
    temperature  one, or float32 `[n]`
    """

    hidden: Tensor
    weight: Tensor
    scores: TokenScores
    temperature: float | Tensor
    config: PolicyConfig
    tp_group: ProcessGroup
    cp_group: ProcessGroup


def measure(need: HeadNeed[Any], view: HeadView, micro_batch: PackedMicroBatch) -> Tensor:
    """What is asked of the micro-batch's response tokens, float32 `[rows, num_tokens]`.

    The same on all tensor-parallel and context-parallel ranks; 0 for tokens that are not counted.
    """
    return _MEASURES[type(need)](need, view, micro_batch)


def _min_p(need: MinPLogprobs, view: HeadView, micro_batch: PackedMicroBatch) -> Tensor:
    held = min_p_logprobs(
        view.hidden,
        view.weight,
        view.scores,
        kappa=need.kappa,
        temperature=view.temperature,
        vocab_size=view.config.vocab_size,
        group=view.tp_group,
    )
    return gather_scores(held[None], micro_batch.places, micro_batch.num_tokens, view.cp_group)


def _hidden_ranks(need: HiddenRanks, view: HeadView, micro_batch: PackedMicroBatch) -> Tensor:
    """Each sample's numbers, said of its counted tokens."""
    places, num_tokens, cp_group = micro_batch.places, micro_batch.num_tokens, view.cp_group
    held = torch.ones_like(view.scores.logprobs)[None]
    is_counted = gather_scores(held, places, num_tokens, cp_group)[0] > 0
    states = _part_of_all_tokens(view.hidden, places, num_tokens, cp_group)
    rows = torch.zeros(need.rows, num_tokens, device=view.hidden.device)
    ends = [*accumulate(micro_batch.response_lengths)]
    for start, end in zip([0, *ends], ends, strict=False):
        counted = start + is_counted[start:end].nonzero()[:, 0]
        own = states[counted[-need.longest :]].double()
        products = own @ own.T
        if cp_group.size() > 1 and len(products):
            dist.all_reduce(products, group=cp_group)
        rows[:, counted] = rank_dynamics(products, need.stride).float()[:, None]
    return rows


def _part_of_all_tokens(
    hidden: Tensor, places: Tensor, num_tokens: int, group: ProcessGroup
) -> Tensor:
    """From all entries of a rank's tokens to a part of the entries of all: `[num_tokens, h / cp]`.

    Not more than a rank had before.
    """
    parts = hidden.tensor_split(group.size(), dim=1)
    mine = hidden
    for rank, part in enumerate(parts):
        spread = part.new_zeros(num_tokens, part.shape[1]).index_copy_(0, places, part.contiguous())
        if group.size() > 1:
            dist.reduce(spread, dst=dist.get_global_rank(group, rank), group=group)
        if rank == group.rank():
            mine = spread
    return mine


_MEASURES: dict[type[HeadNeed[Any]], Callable[[Any, HeadView, PackedMicroBatch], Tensor]] = {
    MinPLogprobs: _min_p,
    HiddenRanks: _hidden_ranks,
}
