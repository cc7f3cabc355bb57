"""Attention and scores over a context-parallel group are those of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.policy.context import gather_scores, held_tokens
from megatron_stare.policy.context_attention import context_attention, plan_context_attention
from megatron_stare.policy.platform import install_cpu_platform
from tests.unit.policy.test_attention import (
    CPU,
    SCALE,
    LargestTensor,
    dense_attention,
    random_qkv,
)
from tests.worlds import run_world

LENGTHS = [2, 17, 1, 5, 2]
"""Of samples, in multiples of `2 * cp_size` tokens."""


def world_group() -> ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def attend(rank: int, lengths: list[int], kv_heads: int) -> tuple[Tensor, ...]:
    """Output and gradients of one rank, of its own tokens."""
    install_cpu_platform()
    size = dist.get_world_size()
    held = held_tokens(lengths, rank, size)
    whole = random_qkv(sum(lengths), kv_heads)
    qkv = [x.detach()[held].requires_grad_() for x in whole]
    plan = plan_context_attention(lengths, rank, size, CPU)
    output = context_attention(*qkv, plan, SCALE, world_group())
    weight = torch.linspace(-1, 1, sum(lengths))[held].unsqueeze(1)
    (output * weight).sum().backward()
    return held, output.detach(), *(x.grad for x in qkv)


@pytest.mark.parametrize(("cp_size", "kv_heads"), [(2, 4), (2, 1), (4, 2)])
def test_output_and_gradients_equal_a_dense_float64_reference(cp_size, kv_heads):
    lengths = [2 * cp_size * n for n in LENGTHS]
    ranks = run_world(cp_size, attend, lengths, kv_heads)
    held, *found = (torch.cat(parts) for parts in zip(*ranks, strict=True))
    qkv = [x.detach().double().requires_grad_() for x in random_qkv(sum(lengths), kv_heads)]
    output = dense_attention(*qkv, lengths)
    (output * torch.linspace(-1, 1, sum(lengths)).unsqueeze(1)).sum().backward()
    for ours, expected in zip(found, [output, *(x.grad for x in qkv)], strict=True):
        torch.testing.assert_close(ours.double(), expected[held], atol=1e-4, rtol=0)


def largest_tensor(rank: int, length: int) -> int:
    with LargestTensor() as largest:
        attend(rank, [length], 2)
    return largest.numel


def test_a_long_sample_makes_no_score_matrix():
    length = 2048
    keys_and_values = length * 2 * 2 * 8
    assert max(run_world(2, largest_tensor, length)) <= keys_and_values


def gather(rank: int) -> tuple[Tensor, Tensor]:
    """Seven scores, spread unevenly over two ranks, under a loss that is not linear in them."""
    places = torch.tensor([[0, 2, 3, 6], [5, 1, 4]][rank])
    held = torch.stack([places.float(), -places.float()]).requires_grad_()
    scores = gather_scores(held, places, 7, world_group())
    (scores[0] ** 2 + scores[1]).sum().backward()
    return scores.detach(), held.grad


def test_scores_come_in_order_and_each_gradient_comes_once():
    (scores, gradient), (scores_1, gradient_1) = run_world(2, gather)
    assert torch.equal(scores, scores_1)
    assert scores[0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert gradient.tolist() == [[0, 4, 6, 12], [1, 1, 1, 1]]
    assert gradient_1.tolist() == [[10, 2, 8], [1, 1, 1]]


def gather_nothing(rank: int) -> torch.Size:
    places = torch.empty(0, dtype=torch.int64)
    scores = gather_scores(torch.empty(2, 0), places, 0, world_group())
    dist.barrier()  # nothing was exchanged: without it a rank may leave before the other has come
    return scores.shape


def test_a_micro_batch_without_tokens_gathers_nothing():
    assert run_world(2, gather_nothing) == [(2, 0), (2, 0)]
