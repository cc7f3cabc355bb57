"""What a step has decided of each of its tokens: what links map to one another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Credit(NamedTuple):
    """What a step has decided of each of its tokens, `[r]` each; no gradient.

    advantages  0 under the loss mask
    weights     factor of the policy term; 1 where no link says otherwise
    counted     bool: what the loss sums, and its denominators count; the loss mask, or less
    clip_low    the ratio's lower bound is 1 - clip_low, `[r]` or `[1]`
    clip_high   the upper one 1 + clip_high
    """

    advantages: Tensor
    weights: Tensor
    counted: Tensor
    clip_low: Tensor
    clip_high: Tensor

    def scaled(self, factor: Tensor | float, where: Tensor | None = None) -> Credit:
        """With the weights times a factor: of all tokens, or of those where a bool `[r]` says."""
        factor = torch.as_tensor(factor, dtype=self.weights.dtype, device=self.weights.device)
        changed = self.weights * factor
        return self._replace(
            weights=changed if where is None else torch.where(where, changed, self.weights)
        )

    def with_advantages(self, advantages: Tensor) -> Credit:
        """With other advantages, `[r]`; 0 where nothing is counted."""
        kept = torch.where(self.counted, advantages.to(self.advantages.dtype), 0.0)
        return self._replace(advantages=kept)

    def at(self, tokens: slice | Tensor) -> Credit:
        """Of some of this rank's tokens."""
        r = len(self.weights)
        return Credit(*(part[tokens] if len(part) == r else part for part in self))
