"""Per-token losses: golden numbers, the right gradients, and what the bounds hold back."""

from typing import get_args

import pytest
import torch

from megatron_stare.algorithms.losses import (
    KL_ESTIMATORS,
    clip_shares,
    clipped_policy_loss,
    kl_penalty,
)
from megatron_stare.algorithms.terms.kl import Kl
from tests.unit.algorithms.golden import assert_golden, method_example, tensor

BOUNDS = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 10.0}


def random_tokens(n: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probs, older log-probs and advantages of both signs, with some zeros among them."""
    generator = torch.Generator().manual_seed(n)
    old = -torch.rand(n, dtype=torch.float64, generator=generator) * 3
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    advantages = torch.randn(n, dtype=torch.float64, generator=generator)
    advantages[::10] = 0.0
    return (old + spread * noise).requires_grad_(), old, advantages


@pytest.mark.parametrize("name", ["GRPO/clipped_loss", "DAPO/clip_higher_loss"])
def test_golden_token_losses(name):
    inputs, expected = method_example(name)
    loss = clipped_policy_loss(
        tensor(inputs["logp"]),
        tensor(inputs["old_logp"]),
        tensor(inputs["adv"]),
        clip_low=inputs["eps_low"],
        clip_high=inputs["eps_high"],
        dual_clip=inputs["dual_clip_c"],
    )
    assert_golden(loss * tensor(inputs["mask"]), expected["token_loss"])


@pytest.mark.parametrize("clip_low", [0.0, 0.2])
def test_on_policy_it_is_the_weighted_policy_gradient(clip_low):
    logprobs, _, advantages = random_tokens(50)
    weights = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)
    bounds = {**BOUNDS, "clip_low": clip_low, "clip_high": clip_low}
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages, **bounds, weights=weights)
    torch.testing.assert_close(loss, -advantages * weights)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    torch.testing.assert_close(gradient, -advantages * weights)


def test_a_token_is_held_back_exactly_where_its_gradient_is_zero():
    logprobs, old, advantages = random_tokens(500, spread=1.5)
    loss = clipped_policy_loss(logprobs, old, advantages, **BOUNDS)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    shares = clip_shares(logprobs.detach(), old, advantages, **BOUNDS)
    assert all(share.any() for share in shares)
    low, high, dual = shares
    assert torch.equal(low | high | dual, (gradient == 0) & (advantages != 0))
    assert not ((low & high) | (low & dual) | (high & dual)).any()


def test_gradients_match_finite_differences():
    logprobs, old, advantages = random_tokens(40)
    assert torch.autograd.gradcheck(
        lambda x: clipped_policy_loss(x, old, advantages, **BOUNDS), logprobs, eps=1e-7
    )


def test_weights_multiply_the_loss_and_carry_no_gradient():
    logprobs, old, advantages = random_tokens(20)
    weights = torch.full_like(old, 1.1).requires_grad_()
    loss = clipped_policy_loss(logprobs, old, advantages, **BOUNDS, weights=weights)
    plain = clipped_policy_loss(logprobs, old, advantages, **BOUNDS)
    torch.testing.assert_close(loss, 1.1 * plain)
    loss.sum().backward()
    assert weights.grad is None


def test_the_loss_of_a_discouraged_token_is_bounded_and_any_ratio_is_finite():
    old = tensor([0.0, 0.0, -500.0, -500.0])
    logprobs = tensor([-500.0, -500.0, 0.0, 0.0])
    advantages = tensor([2.0, -2.0, 2.0, -2.0])
    loss = clipped_policy_loss(logprobs, old, advantages, **BOUNDS)
    assert_golden(loss, [0.0, 1.6, -2.56, 20.0])


def test_golden_kl_estimators():
    inputs, expected = method_example("KL/estimators")
    assert set(get_args(Kl.model_fields["estimator"].annotation)) == set(KL_ESTIMATORS)
    for kind in KL_ESTIMATORS:
        actual = kl_penalty(tensor(inputs["logp"]), tensor(inputs["ref_logp"]), kind)
        assert_golden(actual, expected[kind])


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_estimate_the_kl_without_bias(kind):
    policy, reference = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.3, 0.5])
    estimate = (policy * kl_penalty(policy.log(), reference.log(), kind)).sum()
    torch.testing.assert_close(estimate, (policy * (policy / reference).log()).sum())


def test_only_k3_is_bounded():
    logprobs, reference = tensor([0.0, -60.0]), tensor([-60.0, 0.0])
    assert kl_penalty(logprobs, reference, "k1").tolist() == [60.0, -60.0]
    assert kl_penalty(logprobs, reference, "k2").tolist() == [1800.0, 1800.0]
    assert kl_penalty(logprobs, reference, "k3").tolist() == [10.0, 10.0]


@pytest.mark.parametrize("kind", KL_ESTIMATORS)
def test_kl_gradients_match_finite_differences(kind):
    logprobs, reference, _ = random_tokens(20)
    assert torch.autograd.gradcheck(lambda x: kl_penalty(x, reference, kind), logprobs)
