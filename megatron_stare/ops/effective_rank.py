"""Effective rank of a sample's hidden states, and how it grows, from inner products alone.

The singular values of t centred states are the roots of the eigenvalues of their t x t products.
Those are sums over the hidden size, so that no rank needs whole states of all tokens. They are
taken in float64: a root doubles what rounding leaves of a small one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

_EPS = 1e-8


def effective_rank(products: Tensor) -> Tensor:
    """exp(-sum q ln(q + 1e-8)), q = s / (sum s + 1e-8), s the singular values of centred states.

    0 of fewer than two states.

    Args:
        products: float64 `[t, t]`, of the states, not centred.
    """
    if len(products) < 2:
        return products.new_zeros(())
    centred = products - products.mean(0) - products.mean(1, keepdim=True) + products.mean()
    values = torch.linalg.eigvalsh(centred).clamp(min=0).sqrt()
    shares = values / (values.sum() + _EPS)
    return (-(shares * (shares + _EPS).log()).sum()).exp()


def rank_dynamics(products: Tensor, stride: int) -> Tensor:
    """The effective rank of all states, and the means of its first and second differences, `[3]`.

    Ranks m of the first t + 1 states, t = stride, 2 stride, ... below their number, give the first
    differences m_j - mean(m_i, i < j), from the second on, and these the second, one to the next.
    A mean of none is 0.
    """
    ends = range(stride, len(products), stride)
    ranks = [effective_rank(products[: t + 1, : t + 1]) for t in ends]
    first = [rank - torch.stack(ranks[:j]).mean() for j, rank in enumerate(ranks) if j]
    second = [b - a for a, b in pairwise(first)]
    nothing = products.new_zeros(())
    means = [torch.stack(part).mean() if part else nothing for part in (first, second)]
    return torch.stack([effective_rank(products), *means])
