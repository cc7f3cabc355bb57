"""The four quadrants of STARE: the sign of the advantage, and surprisal above or below critical.

    pos_high  A > 0, selected (L+)   reinforcing it raises entropy
    pos_low   A > 0, the rest        reinforcing it lowers entropy
    neg_high  A < 0, selected (L-)   suppressing it lowers entropy
    neg_low   A < 0, the rest        suppressing it raises entropy

The theory's critical surprisal s* differs from token to token. Here the critical value of a sign is
the surprisal of its last selected token, so a quadrant's high half is what STARE selects.
"""

from __future__ import annotations

from torch import Tensor

from megatron_stare.algorithms.batch_stats import BatchStats
from megatron_stare.algorithms.stare import StareSelection


def quadrants(selection: StareSelection) -> dict[str, Tensor]:
    """Which tokens are in each quadrant, by its name: bool `[n]`.

    Those of advantage 0 are in none.
    """
    return {
        "pos_high": selection.positive,
        "pos_low": selection.rest_positive,
        "neg_high": selection.negative,
        "neg_low": selection.rest_negative,
    }


def quadrant_metrics(
    entropies: Tensor, selection: StareSelection, stats: BatchStats
) -> dict[str, float]:
    """The share of each quadrant in all counted tokens, and its mean entropy in nats."""
    metrics: dict[str, float] = {}
    for name, members in quadrants(selection).items():
        metrics[f"quadrant/{name}_share"] = float(stats.mean(members))
        metrics[f"quadrant/{name}_entropy"] = float(stats.mean(entropies, where=members))
    return metrics
