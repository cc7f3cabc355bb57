"""The head with its vocabulary sharded over a gloo world, against the dense float64 reference."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.ops.logprob_entropy import (
    linear_logprob_entropy,
    linear_token_scores,
    logprob_entropy,
)
from megatron_stare.ops.min_p import min_p_logprobs
from tests.dense_head import (
    assert_near,
    assert_near_in_norm,
    dense_logprob_entropy,
    dense_min_p,
    random_head,
)
from tests.worlds import recorded_collectives, run_world

FORMS = ("linear", "logits")


def run_shard(
    case: tuple[Tensor, Tensor, Tensor, Tensor], form: str, **options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This rank's log-prob, entropy and complete d_hidden, and the whole d_weight."""
    hidden, weight, targets, d_logprob = case
    group = dist.group.WORLD
    hidden = hidden.clone().requires_grad_()
    shard = weight.chunk(group.size())[group.rank()].clone().requires_grad_()
    if form == "linear":
        logprob, entropy = linear_logprob_entropy(hidden, shard, targets, group=group, **options)
        (d_logprob * logprob).sum().backward()
    else:
        logits = hidden @ shard.t()
        logprob, entropy = logprob_entropy(logits, targets, group=group, **options)
        (d_logprob * logprob).sum().backward()
        dist.all_reduce(hidden.grad)
    shards = [torch.empty_like(shard.grad) for _ in range(group.size())]
    dist.all_gather(shards, shard.grad)
    return logprob.detach(), entropy, hidden.grad, torch.cat(shards)


def equals_the_dense_reference(rank: int, form: str) -> None:
    temperatures = (1.0, torch.linspace(0.5, 2.0, 23))
    # 48 columns over 4 ranks of 12: the last rank has 12, then 1, then none that is not padding.
    for vocab_size, temperature in zip((48, 37, 33), (*temperatures, 0.7), strict=True):
        case = random_head(23, 16, 48, vocab_size)
        options = {"vocab_size": vocab_size, "temperature": temperature}
        expected = dense_logprob_entropy(*case, **options)
        for got, want in zip(run_shard(case, form, **options), expected, strict=True):
            assert_near(got, want, 2e-5)


def unlikely_tokens_are_against_the_likeliest_of_all_ranks() -> None:
    for vocab_size, temperature in ((48, torch.linspace(0.5, 2.0, 23)), (33, 0.7)):
        hidden, weight, targets, _ = random_head(23, 16, 48, vocab_size)
        group = dist.group.WORLD
        shard = weight.chunk(group.size())[group.rank()]
        options = {"vocab_size": vocab_size, "temperature": temperature}
        scores = linear_token_scores(hidden, shard, targets, group=group, **options)
        found = min_p_logprobs(hidden, shard, scores, kappa=0.3, group=group, **options)
        expected = dense_min_p(hidden, weight, targets, kappa=0.3, **options)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


def all_targets_on_one_rank(rank: int, form: str) -> None:
    hidden, weight, _, d_logprob = random_head(20, 16, 48)
    for first_column in (0, 36):
        case = (hidden, weight, first_column + torch.arange(20) % 12, d_logprob)
        for got, want in zip(run_shard(case, form), dense_logprob_entropy(*case), strict=True):
            assert_near(got, want, 2e-5)


def shards_far_apart(rank: int, form: str) -> None:
    """One rank's logits near -500, another's near 500: nothing overflows or cancels."""
    offset = torch.tensor([-500.0, 500.0, -500.0, 0.0]).repeat_interleave(12)
    noise = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    logits = noise + offset
    # As a head: identity weights, so that hidden states are logits.
    case = (logits, torch.eye(48), torch.arange(20), torch.ones(20))
    for got, want in zip(run_shard(case, form), dense_logprob_entropy(*case), strict=True):
        assert_near(got, want, 2e-5)


def bfloat16_inputs(rank: int, form: str) -> None:
    hidden, weight, targets, d_logprob = random_head(50, 64, 200, scale=4.0)
    case = (hidden.bfloat16(), weight.bfloat16(), targets, d_logprob)
    logprob, entropy, d_hidden, d_weight = run_shard(case, form)
    expected = dense_logprob_entropy(*case)
    assert_near(logprob, expected[0], 1e-5)
    assert_near(entropy, expected[1], 1e-5)
    assert_near_in_norm(d_hidden, expected[2], 2**-8)
    assert_near_in_norm(d_weight, expected[3], 2**-8)


def no_tokens(rank: int, form: str) -> None:
    for vocab_size in (48, 9):  # every rank has columns, or the first alone
        case = random_head(0, 16, 48)
        logprob, entropy, d_hidden, d_weight = run_shard(case, form, vocab_size=vocab_size)
        assert logprob.shape == entropy.shape == (0,)
        assert d_hidden.shape == (0, 16)
        assert not d_weight.any()


def entropy_gradient(rank: int) -> None:
    """Over shards of which the last is all padding, d_hidden in three blocks of tokens."""
    hidden, weight, targets, d_logprob = random_head(23, 16, 48, 24)
    case = (hidden, weight, targets, d_logprob)
    *_, d_hidden, d_weight = dense_logprob_entropy(*case, vocab_size=24, d_entropy=-d_logprob)
    group = dist.group.WORLD
    hidden = hidden.clone().requires_grad_()
    shard = weight.chunk(group.size())[rank].clone().requires_grad_()
    logprob, entropy = linear_logprob_entropy(
        hidden,
        shard,
        targets,
        vocab_size=24,
        group=group,
        chunk_size=10,
        differentiable_entropy=True,
    )
    (d_logprob * (logprob - entropy)).sum().backward()
    assert_near(hidden.grad, d_hidden, 2e-5)
    assert_near(shard.grad, d_weight.chunk(group.size())[rank], 2e-5)


def every_case(rank: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    for form in FORMS:
        equals_the_dense_reference(rank, form)
        all_targets_on_one_rank(rank, form)
        shards_far_apart(rank, form)
        no_tokens(rank, form)
    unlikely_tokens_are_against_the_likeliest_of_all_ranks()
    bfloat16_inputs(rank, "linear")
    entropy_gradient(rank)
    case = random_head(23, 16, 48)
    return [run_shard(case, form)[:3] for form in FORMS]


def traffic(rank: int, n: int, chunk_size: int | None) -> tuple[list, list, list]:
    """Collectives of forward, of a forward of what is known, and of backward; bfloat16 inputs."""
    hidden, weight, targets, _ = random_head(n, 16, 48)
    shard = weight.chunk(2)[rank].bfloat16().requires_grad_()
    inputs = (hidden.bfloat16().requires_grad_(), shard, targets)
    options = {"group": dist.group.WORLD, "chunk_size": chunk_size}
    with recorded_collectives() as forward:
        known = linear_token_scores(*inputs, **options)
    with recorded_collectives() as again:
        scores = linear_token_scores(*inputs, **options, known=known)
    with recorded_collectives() as backward:
        scores.logprobs.sum().backward()
    return forward, again, backward


@pytest.mark.parametrize("size", [2, 4])
def test_any_shards_equal_the_dense_reference_and_all_ranks_agree_bit_for_bit(size):
    first, *others = run_world(size, every_case)
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            assert all(map(torch.equal, mine, theirs))


def test_one_gather_in_the_forward_and_one_reduction_in_the_backward():
    for forward, again, backward in run_world(2, traffic, 64, None):
        assert forward == [("all_gather_single", 2 * 4 * 64 * 4)]
        assert again == []
        assert backward == [("all_reduce", 64 * 16 * 4)]  # float32, though d_hidden is bfloat16


def test_the_reduction_comes_in_blocks_of_tokens_and_is_no_larger_for_it():
    for forward, _, backward in run_world(2, traffic, 64, 24):
        assert forward == [("all_gather_single", 2 * 4 * 64 * 4)]
        assert backward == [("all_reduce", rows * 16 * 4) for rows in (24, 24, 16)]
