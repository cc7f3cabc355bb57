"""Packed attention is causal attention inside each sample, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_stare.policy.attention import packed_attention, plan_attention

CPU = torch.device("cpu")
SCALE = 0.3
LENGTHS = {
    "ragged": [7, 1, 130, 64, 2, 100, 33, 64],
    "equal": [9, 9, 9],
    "single": [41],
    "ones": [1, 1, 1],
}


def dense_attention(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """Scores of all pairs of the pack, masked to causal pairs of the same sample."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.arange(len(sample))
    allowed = (sample[:, None] == sample) & (position[:, None] >= position)
    scores = torch.einsum("qhd,khd->hqk", query, key) * SCALE
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).flatten(1)


def random_qkv(tokens: int, kv_heads: int, dtype=torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(tokens, heads, 8, dtype=dtype, requires_grad=True)
        for heads in (4, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_output_and_gradients_equal_a_dense_float64_reference(lengths, kv_heads):
    qkv = random_qkv(sum(lengths), kv_heads)
    output = packed_attention(*qkv, plan_attention(lengths, CPU), SCALE)
    reference_qkv = [x.detach().double().requires_grad_() for x in qkv]
    reference = dense_attention(*reference_qkv, lengths)
    torch.testing.assert_close(output.double(), reference, atol=1e-5, rtol=0)

    weight = torch.randn_like(output)
    gradients = torch.autograd.grad((output * weight).sum(), qkv)
    expected = torch.autograd.grad((reference * weight).sum(), reference_qkv)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, atol=1e-4, rtol=0)


def test_a_sample_does_not_feel_its_neighbours():
    lengths = [20, 31, 25]
    query, key, value = (x.detach() for x in random_qkv(sum(lengths), 4))
    plan = plan_attention(lengths, CPU)
    before = packed_attention(query, key, value, plan, SCALE)
    for x in (query, key, value):
        x[20:51] = 1e4
    after = packed_attention(query, key, value, plan, SCALE)
    assert torch.equal(after[:20], before[:20])
    assert torch.equal(after[51:], before[51:])


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_token_has_one_slot(lengths):
    plan = plan_attention(lengths, CPU)
    assert torch.equal(plan.token_of_slot[plan.slot_of_token], torch.arange(sum(lengths)))
    assert sum(samples * length for samples, length in plan.blocks) == len(plan.token_of_slot)


def test_few_blocks_and_little_padding():
    torch.manual_seed(0)
    lengths = torch.empty(500).log_normal_(6.0, 1.0).long().clamp(1, 32_768).tolist()
    plan = plan_attention(lengths, CPU)
    assert len(plan.blocks) <= 30
    assert len(plan.token_of_slot) <= 1.2 * sum(lengths)


class LargestTensor(TorchDispatchMode):
    """Remembers the elements in the memory of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, Tensor):
                elements = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numel = max(self.numel, elements)
        return output


def test_a_long_sample_makes_no_score_matrix():
    lengths = [1500, 300]
    qkv = random_qkv(sum(lengths), 2)
    plan = plan_attention(lengths, CPU)
    with LargestTensor() as largest:
        packed_attention(*qkv, plan, SCALE).sum().backward()
    assert largest.numel == qkv[0].numel()
