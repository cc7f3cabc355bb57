"""The Triton kernels against float64: run by test_head_kernels.py, in the interpreter or on a GPU.

Not collected by itself: TRITON_INTERPRET=1 must be in the environment before Triton is imported,
and must not leak into other tests.
"""

from __future__ import annotations

import os
from operator import le

import pytest
import torch
from torch import Tensor

from megatron_stare.ops.head_kernels import Disagreement, HeadKernels, disagreement
from megatron_stare.ops.head_tiles import KeptTiles, Tile, head_gradients
from megatron_stare.ops.head_triton import triton_d_logits, triton_partial
from megatron_stare.ops.partials import RowTerms, combine
from tests.dense_head import assert_near, assert_near_in_norm, dense_logprob_entropy, random_head

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = [torch.float32, torch.float16 if INTERPRETED else torch.bfloat16]
TILE = Tile(32, 150)
NOTHING = KeptTiles(0)


def run(case: tuple[Tensor, ...], temperature: Tensor, d_entropy: Tensor | None = None):
    """Log-prob, entropy, d_hidden and d_weight, as the op has them on one rank, by tiles."""
    hidden, weight, targets, d_logprob, temperature = (t.to(DEVICE) for t in (*case, temperature))
    partial = triton_partial(hidden, weight, targets, temperature, TILE, NOTHING)
    logprob, entropy, maximum, total = combine(partial, None)
    if d_entropy is None:
        terms = RowTerms.of(temperature, maximum, total, d_logprob, None, None)
    else:
        d_entropy = d_entropy.to(DEVICE)
        terms = RowTerms.of(temperature, maximum, total, d_logprob, d_entropy, entropy)
    d_weight = torch.zeros_like(weight, dtype=torch.float32)
    parts = head_gradients(hidden, weight, targets, terms, d_weight, TILE, NOTHING, triton_d_logits)
    d_hidden = torch.cat([part for _, part in parts])
    return [t.cpu() for t in (logprob, entropy, d_hidden, d_weight)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_agree_with_torch_on_the_cases_of_first_use(dtype):
    kernels = HeadKernels(triton_partial, triton_d_logits)
    errors = disagreement(kernels, DEVICE, dtype)
    assert all(map(le, errors, Disagreement.allowed(dtype))), errors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_entropy", [False, True])
def test_values_and_gradients_equal_the_dense_reference(dtype, with_entropy):
    hidden, weight, targets, d_logprob = random_head(37, 40, 203)
    case = (hidden.to(dtype), weight.to(dtype), targets, d_logprob)
    temperature = torch.linspace(0.5, 2.0, 37)
    d_entropy = -d_logprob.flip(0) if with_entropy else None
    expected = dense_logprob_entropy(
        *case, temperature=temperature, d_entropy=0.0 if d_entropy is None else d_entropy
    )
    actual = run(case, temperature, d_entropy)
    for got, want in zip(actual[:2], expected[:2], strict=True):
        assert_near(got, want, 2e-5)
    # d_logits are rounded once to the type of the operands.
    tolerance = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    for got, want in zip(actual[2:], expected[2:], strict=True):
        assert_near_in_norm(got, want, tolerance)


@pytest.mark.parametrize("offset", [-500.0, -120.0, 500.0])
def test_logits_far_from_zero(offset):
    """The maximum starts at -inf: from 0 it would never come down to such rows."""
    noise = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    case = (noise + offset, torch.eye(48), torch.arange(20), torch.ones(20))
    for got, want in zip(run(case, torch.ones(20)), dense_logprob_entropy(*case), strict=True):
        assert_near(got, want, 5e-5)


def test_a_row_with_all_mass_on_one_token():
    logits = torch.zeros(2, 40)
    logits[:, 3] = 500.0
    case = (logits, torch.eye(40), torch.tensor([3, 4]), torch.ones(2))
    logprob, entropy, d_hidden, _ = run(case, torch.ones(2))
    assert logprob.tolist() == [0.0, -500.0]
    assert entropy.tolist() == [0.0, 0.0]
    expected = torch.zeros(2, 40)
    expected[1, 3], expected[1, 4] = -1.0, 1.0
    assert torch.equal(d_hidden, expected)


def test_several_splits_and_targets_elsewhere():
    """2100 columns are three splits of 1024, the last with 52; half the targets are not here."""
    hidden, weight, targets, _ = random_head(20, 16, 2100, 4200)
    partial = triton_partial(
        *(t.to(DEVICE) for t in (hidden, weight, targets, torch.ones(20))), TILE, NOTHING
    )
    logits = hidden.double() @ weight.double().t()
    maximum, total, moment, target = partial.cpu()
    here = (targets < 2100).double()
    assert_near(maximum, logits.amax(1), 1e-5)
    shifted = logits - logits.amax(1, keepdim=True)
    assert_near(total, shifted.exp().sum(1), 1e-4)
    assert_near(moment, (shifted.exp() * shifted).sum(1), 1e-4)
    expected = logits.gather(1, (targets * here.long())[:, None])[:, 0] * here
    assert_near(target, expected, 1e-5)


def test_no_tokens_and_no_columns():
    hidden, weight, targets, _ = (t.to(DEVICE) for t in random_head(5, 16, 40))
    one = torch.ones(5, device=DEVICE)
    nothing = triton_partial(hidden[:0], weight, targets[:0], one[:0], TILE, NOTHING)
    assert nothing.shape == (4, 0)
    padding = triton_partial(hidden, weight[:0], targets, one, TILE, NOTHING)
    assert not padding[1:].any()
    assert padding.isfinite().all()
