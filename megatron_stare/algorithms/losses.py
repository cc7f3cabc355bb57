"""Per-token losses, flat over tokens: `[n]` each, to be minimised. Aggregation is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0
Bound = Any
"""Of all tokens, a float; or of each, `[n]`."""


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: Bound,
    clip_high: Bound,
    dual_clip: float,
    weights: Tensor | None = None,
) -> Tensor:
    """PPO's clipped surrogate with clip-higher and dual clip (STARE, algorithm step 6).

        r = exp(clamp(logprob - old, -20, 20))
        l = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)),  for A < 0 at most -A dual_clip
        loss = weight * l

        >>> new, old = torch.tensor([-0.5, -2.0]), torch.tensor([-1.0, -2.0])
        >>> bounds = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
        >>> losses = clipped_policy_loss(new, old, torch.ones(2), **bounds)
        >>> [round(loss, 2) for loss in losses.tolist()]
        [-1.28, -1.0]

    Args:
        logprobs: of the sampled tokens under the policy being trained, nats; carries the gradient.
        old_logprobs: under the policy that starts the step, nats.
        advantages: of each token's sample.
        weights: STARE's omega, and what corrects the mismatch; no gradient. None stands for 1.
    """
    ratio = importance_ratios(logprobs - old_logprobs)
    loss = clipped_surrogate(ratio, advantages, clip_low, clip_high)
    bounded = torch.minimum(loss, -advantages * dual_clip)
    loss = torch.where(advantages < 0, bounded, loss)
    return loss if weights is None else loss * weights.detach()


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_low: Bound, clip_high: Bound
) -> Tensor:
    """max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), `[n]`."""
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    # Not torch.maximum: it halves the gradient of ties, which on-policy tokens are if a clip is 0.
    return torch.where(clipped > plain, clipped, plain)


def importance_ratios(log_ratios: Tensor) -> Tensor:
    """exp(d), with d clamped to +-20, `[n]`."""
    return log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clip_shares(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: Bound,
    clip_high: Bound,
    dual_clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens each bound holds back, bool `[n]`: below, above, and by the dual clip."""
    ratio = importance_ratios(logprobs - old_logprobs)
    low, high = clipped_sides(ratio, advantages, clip_low, clip_high)
    return low, high, (advantages < 0) & (ratio > dual_clip)


def clipped_sides(
    ratio: Tensor, advantages: Tensor, clip_low: Bound, clip_high: Bound
) -> tuple[Tensor, Tensor]:
    """Which tokens are held back below, and which above, bool `[n]`."""
    low = (advantages < 0) & (ratio < 1 - clip_low)
    return low, (advantages > 0) & (ratio > 1 + clip_high)


def kl_penalty(logprobs: Tensor, reference_logprobs: Tensor, kind: str) -> Tensor:
    """Estimate of KL(policy || reference) per sampled token, nats `[n]`.

    With d = reference - logprob: k1 = -d, k2 = d^2 / 2, k3 = e^d - d - 1, where k3 clamps d to +-20
    and is at most 10 (Schulman, "Approximating KL Divergence").
    """
    return KL_ESTIMATORS[kind](reference_logprobs - logprobs)


def _k3(d: Tensor) -> Tensor:
    d = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (d.exp() - d - 1).clamp(max=MAX_K3)


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": _k3,
}
