"""The head on one rank, against a dense float64 reference."""

import gc
import math
import weakref
from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import megatron_stare.ops.logprob_entropy
from megatron_stare.ops.head_tiles import CHUNK_BYTES, KeptTiles, Tile
from megatron_stare.ops.logprob_entropy import (
    linear_logprob_entropy,
    linear_token_scores,
    logprob_entropy,
)
from tests.dense_head import (
    assert_near,
    assert_near_in_norm,
    dense_logprob_entropy,
    random_head,
)


def run(hidden, weight, targets, d_logprob, form: str, **options):
    """Log-prob, entropy, d_hidden and d_weight through either form."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    if form == "linear":
        logprob, entropy = linear_logprob_entropy(hidden, weight, targets, **options)
    else:
        logits = hidden @ weight.t()
        logprob, entropy = logprob_entropy(logits, targets, **options)
    (d_logprob * logprob).sum().backward()
    return logprob.detach(), entropy, hidden.grad, weight.grad


@pytest.mark.parametrize("form", ["linear", "logits"])
@pytest.mark.parametrize("vocab_size", [40, 37, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.7, torch.linspace(0.5, 2.0, 23)])
def test_values_and_gradients_equal_the_dense_reference(form, vocab_size, temperature):
    case = random_head(23, 16, 40, vocab_size)
    expected = dense_logprob_entropy(*case, vocab_size=vocab_size, temperature=temperature)
    actual = run(*case, form, vocab_size=vocab_size, temperature=temperature)
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == torch.float32
        assert_near(got, want, 2e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 23, 1000])
def test_chunks_change_nothing(chunk_size):
    case = random_head(23, 16, 40)
    whole = run(*case, "linear", chunk_size=23)
    for got, want in zip(run(*case, "linear", chunk_size=chunk_size), whole, strict=True):
        assert_near(got, want, 1e-5)


def test_tiles_of_the_vocabulary_change_nothing():
    """3100 columns are three tiles, the last one cut short; 2900 tokens are three too."""
    assert Tile.for_head(8, torch.device("cpu")) == (1408, 1408)
    case = random_head(2900, 8, 3100, 3000)
    expected = dense_logprob_entropy(*case, vocab_size=3000)
    for got, want in zip(run(*case, "linear", vocab_size=3000), expected, strict=True):
        assert_near(got, want, 1e-4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("hidden_size", [8, 896, 5120])
def test_what_a_tile_needs_fits_into_a_chunk(device, hidden_size):
    side, columns = Tile.for_head(hidden_size, torch.device(device))
    assert side == columns
    assert 0 < 4 * (2 * side**2 + 4 * side * hidden_size) <= CHUNK_BYTES[device]


@pytest.mark.parametrize("form", ["linear", "logits"])
def test_the_entropy_has_its_gradient_if_asked_for(form):
    hidden, weight, targets, d_logprob = random_head(23, 16, 40, 37)
    d_entropy = d_logprob.flip(0)
    options = {"vocab_size": 37, "temperature": torch.linspace(0.5, 2.0, 23)}
    case = (hidden, weight, targets, d_logprob)
    *_, d_hidden, d_weight = dense_logprob_entropy(*case, d_entropy=d_entropy, **options)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    inputs = (hidden, weight) if form == "linear" else (hidden @ weight.t(),)
    op = linear_logprob_entropy if form == "linear" else logprob_entropy
    logprob, entropy = op(*inputs, targets, differentiable_entropy=True, **options)
    (d_logprob * logprob + d_entropy * entropy).sum().backward()
    assert_near(hidden.grad, d_hidden, 2e-5)
    assert_near(weight.grad, d_weight, 2e-5)


def test_the_entropy_gradient_vanishes_where_all_mass_is_on_one_token():
    logits = torch.zeros(1, 10)
    logits[:, 3] = 500.0
    _, entropy = logprob_entropy(
        logits.requires_grad_(), torch.tensor([3]), differentiable_entropy=True
    )
    entropy.sum().backward()
    assert torch.equal(logits.grad, torch.zeros(1, 10))


@pytest.mark.parametrize("offset", [-500.0, 500.0])
def test_nothing_cancels_far_from_zero(offset):
    logits = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)) + offset
    targets = torch.arange(64)
    logprob, entropy = logprob_entropy(logits, targets)
    reference = logits.double().log_softmax(-1)
    assert_near(logprob, reference[targets, targets], 2e-6)
    assert_near(entropy, -(reference.exp() * reference).sum(-1), 2e-6)


def test_a_row_with_all_mass_on_one_token():
    logits = torch.zeros(2, 10)
    logits[:, 3] = 500.0
    logprob, entropy = logprob_entropy(logits.requires_grad_(), torch.tensor([3, 4]))
    assert logprob.tolist() == [0.0, -500.0]
    assert entropy.tolist() == [0.0, 0.0]
    logprob.sum().backward()
    expected = torch.zeros(2, 10)
    expected[1, 3], expected[1, 4] = -1.0, 1.0
    assert torch.equal(logits.grad, expected)


def test_equal_logits_have_the_entropy_of_the_true_vocabulary():
    logits = torch.full((1, 64), 3.0)
    logits[:, 50:] = 1e4  # padding, whatever stands there
    logprob, entropy = logprob_entropy(logits, torch.tensor([0]), vocab_size=50)
    assert entropy.item() == pytest.approx(math.log(50))
    assert logprob.item() == pytest.approx(-math.log(50))


def test_padded_columns_get_no_gradient():
    hidden, weight, targets, _ = random_head(9, 16, 40, 37)
    weight.requires_grad_()
    linear_logprob_entropy(hidden, weight, targets, vocab_size=37)[0].sum().backward()
    assert weight.grad is not None
    assert not weight.grad[37:].any()


def test_bfloat16_inputs_lose_nothing_to_bfloat16_logits():
    """Against float64 of the same bfloat16 inputs, log-probs are as good as float32 ones."""
    hidden, weight, targets, d_logprob = random_head(50, 64, 200, scale=4.0)
    case = (hidden.bfloat16(), weight.bfloat16(), targets, d_logprob)
    logprob, entropy, d_hidden, d_weight = run(*case, "linear")
    expected = dense_logprob_entropy(*case)
    assert_near(logprob, expected[0], 1e-5)
    assert_near(entropy, expected[1], 1e-5)
    assert d_hidden.dtype == d_weight.dtype == torch.bfloat16
    assert_near_in_norm(d_hidden, expected[2], 2**-9)  # rounded to bfloat16 once, at the end
    assert_near_in_norm(d_weight, expected[3], 2**-9)


def test_bfloat16_inputs_err_a_tenth_of_what_a_bfloat16_head_errs():
    hidden, weight, targets, d_logprob = random_head(50, 64, 200, scale=4.0)
    case = (hidden.bfloat16(), weight.bfloat16(), targets, d_logprob)
    expected = dense_logprob_entropy(*case)[0]
    logits = (case[0] @ case[1].t()).float()
    rounded = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    logprob = run(*case, "linear")[0]
    assert (logprob - expected).abs().max() <= 0.1 * (rounded - expected).abs().max()


def test_main_grad_takes_the_weight_gradient_unrounded():
    hidden, weight, targets, d_logprob = random_head(50, 64, 200)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    *_, d_weight = dense_logprob_entropy(hidden, weight, targets, d_logprob)
    main_grad = torch.ones(200, 64)
    logprob, _ = linear_logprob_entropy(
        hidden, weight.requires_grad_(), targets, main_grad=main_grad, chunk_size=7
    )
    for _ in range(2):
        (d_logprob * logprob).sum().backward(retain_graph=True)
    assert weight.grad is None
    assert_near_in_norm(main_grad - 1, 2 * d_weight, 1e-5)


def test_logits_are_not_modified():
    logits = torch.randn(5, 11)
    before = logits.clone()
    logprob, _ = logprob_entropy(logits.requires_grad_(), torch.arange(5), temperature=0.5)
    logprob.sum().backward()
    assert torch.equal(logits, before)


@pytest.mark.parametrize("form", ["linear", "logits"])
@pytest.mark.parametrize("vocab_size", [40, 0])
def test_no_tokens(form, vocab_size):
    """Not even where all columns are padding, as on the last of many ranks."""
    case = random_head(0, 16, 40)
    logprob, entropy, d_hidden, d_weight = run(*case, form, vocab_size=vocab_size)
    assert logprob.shape == entropy.shape == (0,)
    assert d_hidden.shape == (0, 16)
    assert not d_weight.any()


def test_the_entropy_carries_no_gradient():
    hidden, weight, targets, _ = random_head(4, 16, 40)
    logprob, entropy = linear_logprob_entropy(hidden.requires_grad_(), weight, targets)
    assert logprob.requires_grad
    assert not entropy.requires_grad


@pytest.mark.parametrize("differentiable_entropy", [False, True])
def test_what_is_known_is_not_computed_again(differentiable_entropy):
    """The backward has all it needs: gradients are the same to the bit, and the forward is free."""
    hidden, weight, targets, d_logprob = random_head(23, 16, 40, 37)
    options = {"vocab_size": 37, "temperature": torch.linspace(0.5, 2.0, 23)}
    options["differentiable_entropy"] = differentiable_entropy
    with torch.no_grad():
        known = linear_token_scores(hidden, weight, targets, **options)

    def scores_and_gradients(**known):
        leaves = (hidden.clone().requires_grad_(), weight.clone().requires_grad_())
        scores = linear_token_scores(*leaves, targets, **options, **known)
        loss = (d_logprob * scores.logprobs).sum()
        if differentiable_entropy:
            loss = loss + (d_logprob.flip(0) * scores.entropies).sum()
        return (*scores, *torch.autograd.grad(loss, leaves))

    for got, want in zip(scores_and_gradients(known=known), scores_and_gradients(), strict=True):
        assert torch.equal(got, want)
    with FlopCounterMode(display=False) as counter:
        linear_token_scores(hidden.requires_grad_(), weight, targets, known=known, **options)
    assert counter.get_total_flops() == 0
    assert not any(score.requires_grad for score in known)


def test_what_is_kept_for_the_backward_is_the_inputs_and_a_few_numbers_a_token():
    n = 100
    hidden, weight, targets, _ = random_head(n, 16, 400)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear_logprob_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets)
    inputs = {hidden.data_ptr(), weight.data_ptr()}
    others = [tensor for tensor in kept if tensor.data_ptr() not in inputs]
    assert all(tensor.shape == (n,) for tensor in others)
    assert len(others) <= 4


def test_nothing_is_kept_without_gradients():
    hidden, weight, targets, _ = random_head(4, 16, 40)
    alive = weakref.ref(hidden)
    with torch.no_grad():
        logprob, _ = linear_logprob_entropy(hidden, weight.requires_grad_(), targets)
    del hidden
    gc.collect()
    assert logprob.grad_fn is None
    assert alive() is None


@pytest.mark.parametrize("target", [-1, 37, 39])
def test_a_target_outside_the_vocabulary_is_an_error(target):
    hidden, weight, targets, _ = random_head(4, 16, 40, 37)
    targets[2] = target
    with pytest.raises(RuntimeError, match=r"not a token id in \[0, 37\)"):
        linear_logprob_entropy(hidden, weight, targets, vocab_size=37)


def test_a_vocabulary_larger_than_its_shards_is_an_error():
    hidden, weight, targets, _ = random_head(4, 16, 40)
    with pytest.raises(ValueError, match="vocab_size 41 exceeds 1 shards of 40 columns"):
        linear_logprob_entropy(hidden, weight, targets, vocab_size=41)


def test_tiles_that_are_kept_change_no_bit_and_spare_their_product():
    """A second backward computes them again. The counter sees no products that are added."""
    hidden, weight, targets, d_logprob = random_head(2900, 8, 3100, 3000)
    options = {"vocab_size": 3000, "temperature": torch.linspace(0.5, 2.0, 2900)}
    tile_bytes = 4 * 1408**2

    def run_twice(keep_bytes: int):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        scores = linear_token_scores(*leaves, targets, keep_bytes=keep_bytes, **options)
        loss = (d_logprob * scores.logprobs).sum()
        found = []
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
            found.append((counter.get_total_flops(), gradients))
        return scores, found

    product = 2 * 2900 * 3000 * 8
    of_a_tile = 2 * 1408 * 1408 * 8
    want_scores, [(_, want), _] = run_twice(0)
    for keep_bytes, spared in (
        (0, 0),
        (tile_bytes - 1, 0),
        (tile_bytes, of_a_tile),
        (2 * tile_bytes, 2 * of_a_tile),
        (2 * tile_bytes + 4, 2 * of_a_tile),
        (4 * 2900 * 3000, product),
    ):
        scores, [(flops, first), (flops_again, second)] = run_twice(keep_bytes)
        assert flops == product - spared
        assert flops_again == product
        for got, expected in zip(
            (*scores, *first, *second), (*want_scores, *want, *want), strict=True
        ):
            assert torch.equal(got, expected)


def test_no_logits_are_kept_where_no_backward_can_come():
    hidden, weight, targets, _ = random_head(4, 8, 40)
    with (
        torch.no_grad(),
        mock.patch.object(megatron_stare.ops.logprob_entropy, "KeptTiles", wraps=KeptTiles) as kept,
    ):
        linear_token_scores(hidden.requires_grad_(), weight, targets, keep_bytes=1 << 30)
    kept.assert_called_once_with(0)
