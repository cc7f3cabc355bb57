"""RMSNorm in float32 and bfloat16, with its gradients."""

from __future__ import annotations

import torch

from megatron_stare.policy.norm import rms_norm


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def test_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 5, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(5, requires_grad=True)
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    output, expected = rms_norm(x, weight, 1e-2), reference(*wide, 1e-2)
    torch.testing.assert_close(output.double(), expected, atol=1e-6, rtol=1e-6)
    direction = torch.randn(3, 2, 5)
    gradients = torch.autograd.grad((output * direction).sum(), (x, weight))
    wanted = torch.autograd.grad((expected * direction).sum(), wide)
    for gradient, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), right, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_normalised_in_float32():
    x = torch.full((1, 512), 300.0, dtype=torch.bfloat16)
    weight = torch.ones(512, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(x, weight, 1e-6), torch.ones_like(x))
