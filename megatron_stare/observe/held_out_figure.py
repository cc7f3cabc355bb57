"""Figures of held-out sets: what each comes to, with its error, and pass@k as k grows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megatron_stare.observe.drawing import colour_legend, new_figure, percent
from megatron_stare.observe.held_out import prefixes, samples_per_problem
from megatron_stare.observe.run_folders import RunFolder, Runs, num_steps

METRICS = ("eval/avg_at_k", "eval/avg_at_k_se", "eval/pass_at_{k}", "eval/maj_at_k")
_MOST_NAMED_BARS = 12
_INK = "#22262c"


def sets_of(runs: Runs) -> dict[str, str]:
    """By prefix of its metrics the title of each held-out set, and of the mean of all.

    Nothing where runs have a single set and train on others, which other figures draw.
    """
    found = prefixes(
        {name: 0.0 for group in runs.values() for run in group for name in run.history}
    )
    shown = {prefix: title for prefix, title in found.items() if "/source/" not in prefix}
    is_alone = all(num_steps(run.config) is None for group in runs.values() for run in group)
    return shown if is_alone or any(prefix != "eval" for prefix in shown) else {}


def draw_held_out(runs: Runs) -> Figure:
    """Bars of avg@k by set, and for each set that has several samples a problem its pass@k."""
    sets = sets_of(runs)
    names = {name for group in runs.values() for run in group for name in run.history}
    curves = [prefix for prefix in sets if (samples_per_problem(prefix, [*names]) or 1) > 1]
    legend = colour_legend(runs)
    figure, axes = new_figure(1 + len(curves), 3, legend)
    colours = [*legend.values()]
    _draw_averages(axes[0], runs, sets, colours)
    for place, prefix in zip(axes[1:], curves, strict=True):
        _draw_pass_at_k(place, runs, prefix, colours)
        place.set_title(f"{sets[prefix]}: pass@k")
    return figure


def _draw_averages(axes: Axes, runs: Runs, sets: dict[str, str], colours: Sequence[str]) -> None:
    """At the last evaluation; whiskers of a standard error, of several seeds lowest to highest."""
    width = 0.8 / len(runs)
    is_named = len(runs) * len(sets) <= _MOST_NAMED_BARS
    for position, (group, colour) in enumerate(zip(runs.values(), colours, strict=True)):
        for place, prefix in enumerate(sets):
            values = _last(group, f"{prefix}/avg_at_k")
            if not values:
                continue
            x, mean = place + (position - (len(runs) - 1) / 2) * width, float(np.mean(values))
            low, high = min(values), max(values)
            if len(values) == 1 and (error := _last(group, f"{prefix}/avg_at_k_se")):
                low, high = mean - error[0], mean + error[0]
            axes.bar(x, mean, width * 0.92, color=colour)
            axes.vlines(x, max(low, 0.0), high, color=_INK, linewidth=1.1)
            if is_named:
                axes.annotate(
                    f"{mean:.1%}",
                    *((x, high), (0, 2)),
                    textcoords="offset points",
                    horizontalalignment="center",
                    fontsize=8,
                )
    axes.set_xticks(range(len(sets)), [*sets.values()])
    axes.set(title="avg@k ± standard error", xlabel="")
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(percent)
    axes.set_ylim(bottom=0)


def _draw_pass_at_k(axes: Axes, runs: Runs, prefix: str, colours: Sequence[str]) -> None:
    """Against k, with maj@k of all samples as a dashed line."""
    for group, colour in zip(runs.values(), colours, strict=True):
        start = f"{prefix}/pass_at_"
        found = {name for run in group for name in run.history if name.startswith(start)}
        budgets = sorted(int(name.removeprefix(start)) for name in found)
        means = [float(np.mean(_last(group, f"{start}{k}"))) for k in budgets]
        axes.plot(budgets, means, color=colour, marker="o", markersize=4)
        if majority := _last(group, f"{prefix}/maj_at_k"):
            axes.axhline(float(np.mean(majority)), color=colour, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("k (dashed: maj@k of all)")
    axes.yaxis.set_major_formatter(percent)
    axes.set_ylim(bottom=0)


def _last(group: Sequence[RunFolder], metric: str) -> list[float]:
    """Of the runs that have it, at their last evaluation."""
    found = (float(run.history[metric].values[-1]) for run in group if metric in run.history)
    return [value for value in found if np.isfinite(value)]
