"""Why STARE works: how one policy-gradient step on a token moves the entropy at its position.

A step on a sampled token `a` with advantage A moves the logits by `dz_k = eta A (1[k=a] - p_k)`,
and `dH/dz_k = p_k (s_k - H)` with surprisal `s = -ln p`. To first order in eta

    dH = eta A S(a),      S(a) = p_a (s_a - H) - C,      C = sum_k p_k^2 (s_k - H)

and S is positive exactly above a critical surprisal s* <= H (arXiv 2606.19236, section 3). It holds
for one softmax by itself: no clipping, no parameters shared between positions. Training computes
none of this; it is for analysis, and `docs/stare.md` explains it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy_sensitivity(probs: Tensor) -> Tensor:
    """S of every token of a distribution, `[V]`, in nats per unit of step size and advantage.

    Its mean under the distribution is 0: an advantage that ignores the token moves no entropy.

    Args:
        probs: float `[V]`, positive, summing to 1.
    """
    surprisal = -probs.log()
    pull = probs * (surprisal - _entropy(probs))
    return pull - (probs * pull).sum()


def critical_surprisal(probs: Tensor) -> float:
    """s*, in nats: tokens above it raise entropy when reinforced, tokens below it lower it.

    It is the root in [0, H] of `e^-s (s - H) = C`, whose left side rises up to s = H + 1.
    """
    entropy = float(_entropy(probs))
    center = float((probs.square() * (-probs.log() - entropy)).sum())
    low, high = 0.0, entropy
    for _ in range(64):
        middle = (low + high) / 2
        if math.exp(-middle) * (middle - entropy) < center:
            low = middle
        else:
            high = middle
    return high


def _entropy(probs: Tensor) -> Tensor:
    return torch.special.entr(probs).sum()
