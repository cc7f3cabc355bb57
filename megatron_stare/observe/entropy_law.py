"""What a run trades its entropy for: the law R = -a e^H + b, fitted to runs and drawn.

R is the accuracy of a step's own batch, H its mean entropy: both of the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from megatron_stare.algorithms.entropy_theory import EntropyLaw, fit_entropy_law
from megatron_stare.observe.run_folders import RunFolder

METRICS = ("entropy/mean", "reward/accuracy")
"""H and R."""


def law_of(run: RunFolder) -> EntropyLaw | None:
    """The law of a run; None where it has too few steps, or its entropy stands still."""
    entropies, accuracies = _points(run)
    return fit_entropy_law(entropies.tolist(), accuracies.tolist())


def ceiling_of(run: RunFolder) -> float | None:
    """The accuracy that a run's law predicts where its entropy is used up."""
    law = law_of(run)
    return None if law is None else law.ceiling


def draw_entropy_law(axes: Axes, runs: Sequence[RunFolder], colour: str) -> None:
    """The steps of a label's runs, the law of each, and its ceiling with a 95% interval."""
    for run in runs:
        entropies, accuracies = _points(run)
        axes.scatter(entropies, accuracies, s=9, color=colour, alpha=0.35, linewidths=0)
        law = law_of(run)
        if law is not None:
            along = np.linspace(0, np.nanmax(entropies), 100)
            axes.plot(along, [law.at(entropy) for entropy in along], color=colour)
            axes.vlines(0, law.low, law.high, color="#22262c", linewidth=2.5, clip_on=False)
            if len(runs) == 1:
                text = f"ceiling {law.ceiling:.1%}\n95%: {law.low:.1%} to {law.high:.1%}"
                axes.annotate(text, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top")
    axes.set(xlabel="entropy (nats)", ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _points(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """H and R of the steps that have both."""
    if not run.history.keys() >= set(METRICS):
        return np.empty(0), np.empty(0)
    entropies, accuracies = (run.history[name] for name in METRICS)
    _, ours, theirs = np.intersect1d(entropies.steps, accuracies.steps, return_indices=True)
    return entropies.values[ours], accuracies.values[theirs]
