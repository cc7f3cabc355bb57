"""The parts of a figure: a panel per metric, a colour per label, seeds as mean and min-max band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import RcKeyType

from megatron_stare.observe.metrics import find_metric, targets_of
from megatron_stare.observe.run_folders import (
    BAND,
    RunFolder,
    Runs,
    pass_at_budgets,
    spread,
    titles,
)
from megatron_stare.system.folders import replacing_file

PALETTE = ("#3d6fb4", "#e07b3c", "#3f9c74", "#8b62b3", "#c8474f", "#7c6a5b", "#d27fb0", "#5b6573")
PHASES = {
    "generate": "#3d6fb4",
    "prepass": "#86b0dd",
    "update": "#e07b3c",
    "dump": "#b7a6cf",
    "sync": "#f2c08d",
    "eval": "#3f9c74",
    "save": "#a5d3b8",
}
"""The phases of a step in their order, `time/PHASE_s` each."""

STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.edgecolor": "#8a9099",
    "axes.labelcolor": "#4a5059",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8eaee",
    "grid.linewidth": 0.8,
    "text.color": "#22262c",
    # Run names are names, not formulas.
    "text.parse_math": False,
    "xtick.color": "#4a5059",
    "ytick.color": "#4a5059",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "savefig.dpi": 160,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric over the steps; `window` > 1 draws its mean over so many steps, without a band."""

    title: str
    metric: str
    log_scale: bool = False
    window: int = 1


def save_figure(figure: Figure, path: Path) -> None:
    """As a PNG at `path`: whole, or what was there before."""
    with replacing_file(path) as unfinished:
        figure.savefig(unfinished, format="png")


def new_figure(
    num_panels: int, columns: int, legend: Mapping[str, str], *, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A grid of empty panels over steps, `columns` in a row, under a legend of names to colours."""
    columns = min(columns, num_panels)
    rows = -(-num_panels // columns)
    figure = Figure(figsize=(max(3.5 * columns, 5), 2.7 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y).flatten().tolist()
    for unused in axes[num_panels:]:
        unused.remove()
    for lowest_in_column in axes[max(num_panels - columns, 0) : num_panels]:
        lowest_in_column.set_xlabel("step")
    handles = [Line2D([], [], color=colour, linewidth=4) for colour in legend.values()]
    entries_in_a_row = int(12 * figure.get_figwidth() / (6 + max(map(len, legend))))
    figure.legend(handles, list(legend), loc="outside upper left", ncols=max(entries_in_a_row, 1))
    return figure, axes[:num_panels]


def colour_legend(runs: Runs) -> dict[str, str]:
    """Legend entries of the labels, title to colour."""
    return dict(zip(titles(runs), _colours(runs), strict=True))


def draw_panel(axes: Axes, runs: Runs, panel: Panel) -> None:
    """A metric over the steps, a line per label, in the unit of the glossary."""
    for colour, group in zip(_colours(runs), runs.values(), strict=True):
        curve = spread(group, panel.metric)
        if curve is not None:
            marker = "o" if len(curve.steps) <= 12 else ""
            mean = _trailing_mean(curve.mean, panel.window)
            # A line at 0 lies on the axis, and would be cut in half.
            axes.plot(
                curve.steps,
                mean,
                color=colour,
                marker=marker,
                markersize=4,
                clip_on=panel.log_scale,
            )
            if len(group) == 1 and (errors := spread(group, f"{panel.metric}_se")):
                _, ours, theirs = np.intersect1d(curve.steps, errors.steps, return_indices=True)
                bars = errors.mean[theirs]
                place = curve.steps[ours], mean[ours]
                axes.errorbar(*place, bars, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
            if len(group) > 1 and panel.window == 1:
                axes.fill_between(
                    curve.steps, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0
                )
    _draw_target_bands(axes, runs, panel.metric)
    axes.set_title(panel.title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _scale_y(axes, find_metric(panel.metric).unit, log_scale=panel.log_scale)


def draw_pass_at_k(axes: Axes, runs: Runs) -> None:
    """Bars of pass@k at the last evaluation; whiskers from the lowest to the highest seed."""
    budgets = pass_at_budgets(runs)
    width = 0.8 / len(runs)
    for position, (colour, group) in enumerate(zip(_colours(runs), runs.values(), strict=True)):
        for place, k in enumerate(budgets):
            found = spread(group, f"eval/pass_at_{k}")
            if found is not None:
                mean, low, high = found.mean[-1], found.low[-1], found.high[-1]
                x = place + (position - (len(runs) - 1) / 2) * width
                axes.bar(x, mean, width * 0.92, color=colour)
                if len(group) > 1:
                    axes.vlines(x, low, high, color="#22262c", linewidth=1.1)
    axes.set_xticks(range(len(budgets)), [str(k) for k in budgets])
    axes.set(title="Held-out pass@k, end of the run", xlabel="k")
    axes.grid(visible=False, axis="x")
    _scale_y(axes, "share", log_scale=False)


def draw_times(axes: Axes, runs: Sequence[RunFolder]) -> None:
    """Seconds of the phases of each step, stacked; the mean over the runs."""
    step = spread(runs, "time/step_s")
    if step is not None:
        parts = [_at_steps(runs, f"time/{phase}_s", step.steps) for phase in PHASES]
        axes.stackplot(step.steps, parts, colors=PHASES.values(), linewidth=0)
    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _at_steps(runs: Sequence[RunFolder], metric: str, steps: np.ndarray) -> np.ndarray:
    """Mean of a metric at `steps`; 0 where it was not logged, as for phases of some steps only."""
    values = np.zeros(len(steps))
    found = spread(runs, metric)
    if found is not None:
        _, ours, theirs = np.intersect1d(steps, found.steps, return_indices=True)
        values[ours] = found.mean[theirs]
    return values


def _scale_y(axes: Axes, unit: str, *, log_scale: bool) -> None:
    is_share = unit == "share"
    if log_scale:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(percent if is_share else _number)
    axes.set_ylabel("" if is_share or unit == "1" else unit)
    # A KL estimate may be negative; all else with a unit is read against 0.
    if unit != "1" and axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)


def _number(value: float, _: float) -> str:
    return f"{value:g}"


def percent(value: float, _: float) -> str:
    """A tick of an axis of shares."""
    return f"{100 * value:.3g}%"


def _trailing_mean(values: np.ndarray, window: int) -> np.ndarray:
    first = np.arange(len(values)) - window + 1
    return np.array([values[max(start, 0) : start + window].mean() for start in first])


def _draw_target_bands(axes: Axes, runs: Runs, metric: str) -> None:
    """A band for each different target of a metric: a single one is named, several have colours."""
    distinct = {}
    for colour, group in zip(_colours(runs), runs.values(), strict=True):
        for curve in (spread(group, target) for target in targets_of(metric)):
            if curve is not None:
                distinct.setdefault(curve.mean.tobytes(), (colour, curve.steps, curve.mean))
    for colour, steps, target in distinct.values():
        low, high = target * (1 - BAND), target * (1 + BAND)
        line = "#7f8793" if len(distinct) == 1 else colour
        axes.fill_between(steps, low, high, color=line, alpha=0.14, linewidth=0)
        axes.plot(steps, target, color=line, linewidth=1, linestyle=(0, (4, 3)))
        if len(distinct) == 1:
            _name_target(axes, target[-1], high[-1])


def _name_target(axes: Axes, target: float, top: float) -> None:
    """Where its band ends."""
    axes.annotate(
        f"target {target:.3g} ± {BAND:.0%}",
        (1, top),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        horizontalalignment="right",
        color="#6b727d",
        fontsize=8,
    )


def _colours(runs: Runs) -> list[str]:
    return [PALETTE[position % len(PALETTE)] for position in range(len(runs))]
