"""The LM head in float64 with all its logits: what the sharded, chunked one must equal."""

from __future__ import annotations

import torch
from torch import Tensor


def random_head(
    n: int, h: int, width: int, vocab_size: int | None = None, *, scale: float = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden `[n, h]`, weight `[width, h]`, targets `[n]`, d_logprob `[n]`; always the same."""
    generator = torch.Generator().manual_seed(n * width)
    hidden = torch.randn(n, h, generator=generator) * scale / h**0.5
    weight = torch.randn(width, h, generator=generator) * scale
    targets = torch.randint(0, vocab_size or width, (n,), generator=generator)
    return hidden, weight, targets, torch.randn(n, generator=generator)


def dense_logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    d_logprob: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    d_entropy: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob `[n]`, entropy `[n]`, and d_hidden and d_weight, float64.

    The gradients are those of sum(d_logprob * logprob + d_entropy * entropy).
    """
    hidden = hidden.double().requires_grad_()
    weight = weight.double().requires_grad_()
    temperature = torch.as_tensor(temperature, dtype=torch.float64).reshape(-1, 1)
    logits = (hidden @ weight.t())[:, : vocab_size or len(weight)] / temperature
    logprobs = logits.log_softmax(-1)
    logprob = logprobs.gather(1, targets[:, None])[:, 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    loss = (d_logprob * logprob + d_entropy * entropy).sum()
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    return logprob.detach(), entropy.detach(), d_hidden, d_weight


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """|actual - expected| <= tolerance * (1 + |expected|).

    torch.testing would do, but takes seconds to import, in every process of a world.
    """
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs()
    assert (error <= tolerance * (1 + expected.abs())).all(), f"error {error.max():.3g}"


def assert_near_in_norm(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """|actual - expected| <= tolerance * |expected|, as vectors."""
    error = (actual.double() - expected).norm() / expected.norm()
    assert error <= tolerance, f"relative error {error:.3g}"


def dense_min_p(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    kappa: float,
    vocab_size: int,
    temperature: float | Tensor,
) -> Tensor:
    """ln p of each target among tokens with p >= kappa max p, float64; -1e4 of the others."""
    scale = torch.as_tensor(temperature).double().expand(len(hidden))[:, None]
    logits = (hidden.double() @ weight[:vocab_size].double().t()) / scale
    probs = logits.softmax(-1)
    kept = probs.where(probs >= kappa * probs.amax(-1, keepdim=True), 0.0)
    shares = (kept / kept.sum(-1, keepdim=True)).gather(1, targets[:, None])[:, 0]
    return shares.log().where(shares > 0, -1e4)
