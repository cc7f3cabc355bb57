"""How a pack is cut over context-parallel ranks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from megatron_stare.config.policy import sample_multiple
from megatron_stare.policy.context import held_tokens


def te_partition(ends: list[int], cp_rank: int, cp_size: int) -> list[int]:
    """The rule that Transformer Engine documents for `thd_get_partitioned_indices`, by index.

    The k-th token that a rank holds of a sequence of L tokens is, for k in the first half of its
    L / cp_size, token `cp_rank * half + k`; in the second half, it counts on from the start of
    chunk `2 * cp_size - 1 - cp_rank`.
    """
    indices = []
    for start, end in pairwise(ends):
        half = (end - start) // cp_size // 2
        for k in range(2 * half):
            chunk = cp_rank if k < half else 2 * cp_size - 1 - cp_rank
            indices.append(start + chunk * half + k % half)
    return indices


@pytest.mark.parametrize("cp_size", [2, 3, 4])
def test_slices_are_transformer_engines(cp_size):
    lengths = [2 * cp_size * n for n in (1, 7, 2, 16)]
    ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    for rank in range(cp_size):
        assert held_tokens(lengths, rank, cp_size).tolist() == te_partition(ends, rank, cp_size)


def test_the_first_and_last_chunks_are_one_ranks():
    assert held_tokens([8], 0, 2).tolist() == [0, 1, 6, 7]
    assert held_tokens([8], 1, 2).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("cp_size", [1, 2, 4])
def test_every_token_is_held_once_and_causal_work_is_equal(cp_size):
    lengths = [sample_multiple(cp_size) * n for n in (3, 1, 9)]
    held = [held_tokens(lengths, rank, cp_size) for rank in range(cp_size)]
    assert torch.equal(torch.cat(held).sort().values, torch.arange(sum(lengths)))
    positions = torch.cat([torch.arange(length) for length in lengths])
    assert len({int((positions[tokens] + 1).sum()) for tokens in held}) == 1
