"""Choosing among a run's checkpoints by what training itself shows: is it worth its risk?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

import numpy as np

from megatron_stare.observe.run_folders import RunFolder

CHOSEN = 3
"""How many checkpoints are chosen."""


def sharpe_ratio(values: Sequence[float], baseline: float) -> float | None:
    """SharpeRatio@k of k policies that an estimator chose: the best one's gain over its risk.

    max(max(values) - baseline, 0) / std(values), the std with k - 1; values are the policies' true
    ones. Kiyohara et al., "Towards Assessing and Benchmarking Risk-Return Tradeoff of Off-Policy
    Evaluation", arXiv 2311.18207.

    >>> round(sharpe_ratio([0.9, 0.6, 0.75], baseline=0.7), 6)
    1.333333

    Returns:
        None where it is 0/0 or infinite: of fewer than two policies, or of equal ones.
    """
    spread = stdev(values) if len(values) > 1 else 0.0
    return None if spread == 0 else max(max(values) - baseline, 0.0) / spread


def checkpoint_sharpe_ratio(run: RunFolder) -> float | None:
    """SharpeRatio@3 of a run's evaluated steps, chosen by their training accuracy.

    A policy's true value is its held-out accuracy, the baseline's that of the start.

    Returns:
        None where fewer than three steps after the start are evaluated, or the start is not.
    """
    held_out, training = run.history.get("eval/avg_at_k"), run.history.get("reward/accuracy")
    if held_out is None or training is None or held_out.steps[0] != 0:
        return None
    _, ours, theirs = np.intersect1d(held_out.steps, training.steps, return_indices=True)
    values, estimates = held_out.values[ours], training.values[theirs]
    is_known = np.isfinite(values + estimates)
    chosen = np.argsort(-estimates[is_known], kind="stable")[:CHOSEN]
    if len(chosen) < CHOSEN or not math.isfinite(held_out.values[0]):
        return None
    return sharpe_ratio(values[is_known][chosen].tolist(), float(held_out.values[0]))
