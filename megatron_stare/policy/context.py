"""Context parallelism: which tokens a rank holds, and the exchanges between the ranks.

Every sample is padded to a multiple of 2 * cp_size tokens and cut into 2 * cp_size equal chunks;
rank r holds chunks r and 2 * cp_size - 1 - r. An early chunk sees few keys and a late one many, so
that each rank has the same attention to compute. With cp_size = 2:

    sample    | 0 1 | 2 3 | 4 5 | 6 7 |    positions
    rank         0     1     1     0       holds them
    rank 0    | 0 1 | 6 7 |                rank 1    | 2 3 | 4 5 |

This is the partition of Transformer Engine's `thd` format (`thd_get_partitioned_indices`), so its
attention on GPUs takes the very same slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def held_chunks(cp_rank: int, cp_size: int) -> tuple[int, int]:
    """The chunks of every sample that a rank holds, in order, of `2 * cp_size`."""
    return cp_rank, 2 * cp_size - 1 - cp_rank


def held_tokens(lengths: Sequence[int], cp_rank: int, cp_size: int) -> Tensor:
    """Tokens of a pack that a rank holds, int64 `[T / cp_size]`, in its own order.

    Args:
        lengths: tokens of each sample, multiples of `sample_multiple(cp_size)`; T in all.
    """
    if cp_size == 1:
        return torch.arange(sum(lengths))
    return torch.cat([torch.empty(0, dtype=torch.int64), *_chunks(lengths, cp_rank, cp_size)])


def _chunks(lengths: Sequence[int], cp_rank: int, cp_size: int) -> Iterator[Tensor]:
    start = 0
    for length in lengths:
        size = length // (2 * cp_size)
        for chunk in held_chunks(cp_rank, cp_size):
            yield torch.arange(start + chunk * size, start + (chunk + 1) * size)
        start += length


def gather_scores(held: Tensor, places: Tensor, num_tokens: int, group: ProcessGroup) -> Tensor:
    """Scores of all tokens, `[..., num_tokens]`, from those that each rank of the group holds.

    0 where none of them holds one.

    Every rank then computes the same loss, whose gradient by a score is the same everywhere; the
    backward hands each rank that of its own scores. So a parameter's gradient is the plain sum of
    what the ranks hold of it: nothing is counted twice, and nothing is divided.

    Args:
        held: `[..., n]`, on this rank.
        places: int64 `[n]`, where they stand; over the ranks, a place comes at most once.
    """
    return _GatherScores.apply(held, places, num_tokens, group)


class _GatherScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, held: Tensor, places: Tensor, num_tokens: int, group: ProcessGroup) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(places)
        scores = held.new_zeros(*held.shape[:-1], num_tokens)
        scores[..., places] = held
        if group.size() > 1:
            dist.all_reduce(scores, group=group)
        return scores

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        return grad[..., places], None, None, None
