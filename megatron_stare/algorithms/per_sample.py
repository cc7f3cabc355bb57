"""Sums and means over the tokens of each sample, where whole samples are at hand: `[n]` each."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_sum(values: Tensor, sample_ids: Tensor) -> Tensor:
    """Of its sample, for each token, `[..., n]`; in float64, as a response has many terms."""
    unique, member_of = sample_ids.unique(return_inverse=True)
    sums = values.new_zeros(*values.shape[:-1], len(unique), dtype=torch.float64)
    return sums.index_add_(-1, member_of, values.double())[..., member_of]


def sample_mean(values: Tensor, sample_ids: Tensor, counted: Tensor) -> Tensor:
    """The mean over what is counted of its sample, for each token; 0 where nothing is.

    Args:
        values: `[n]`, perhaps with a gradient; anything, NaN too, where a token is not counted.
        sample_ids: int64 `[n]`; tokens of one sample share an id.
        counted: bool `[n]`.
    """
    chosen = torch.where(counted, values, 0.0)
    total, count = sample_sum(torch.stack([chosen, counted.to(chosen.dtype)]), sample_ids)
    return total / count.clamp(min=1)
