"""The four quadrants of STARE: the sign of the advantage, and surprisal above or below critical.

    pos_high  A > 0, selected (L+)   reinforcing it raises entropy
    pos_low   A > 0, the rest        reinforcing it lowers entropy
    neg_high  A < 0, selected (L-)   suppressing it lowers entropy
    neg_low   A < 0, the rest        suppressing it raises entropy

The theory's critical surprisal s* differs from token to token. Here the critical value of a sign is
the surprisal of its last selected token, so a quadrant's high half is what STARE selects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.stare import StareSelection

QUADRANTS = ("pos_high", "pos_low", "neg_high", "neg_low")


def quadrant_sums(entropies: Tensor, advantages: Tensor, selection: StareSelection) -> Tensor:
    """Tokens of each quadrant on this rank and the sum of their entropies, float64 `[2, 4]`.

    Rows: number of tokens, sum of entropies in nats. Columns: `QUADRANTS`. Sums over ranks are sums
    over the batch.
    """
    positive, negative = advantages > 0, advantages < 0
    members = (
        positive & selection.positive,
        positive & ~selection.positive,
        negative & selection.negative,
        negative & ~selection.negative,
    )
    counts = torch.stack([member.sum().double() for member in members])
    # Picked, not multiplied by the mask: what is outside a quadrant may be NaN.
    return torch.stack([counts, torch.stack([entropies[m].double().sum() for m in members])])
