"""The figure of countdown: entropy, what k samples solve, and which forms of answer are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from examples.countdown.measure import BUDGETS
from megatron_stare.observe.drawing import (
    STYLE,
    Panel,
    colour_legend,
    draw_panel,
    new_figure,
    save_figure,
)
from megatron_stare.observe.run_folders import read_runs

START_COLOUR = "#9aa1ab"
Measures = Mapping[str, Any]


def write_figure(
    runs: Sequence[Path], measures: Mapping[str, Measures], warmup: str, path: Path
) -> None:
    """Draw runs of one seed and the warm-up they began from.

    Args:
        measures: of `measure_runs`, by the names of the folders.
        warmup: which of them is the warm-up.

    Raises:
        UserError: a folder is not that of a run.
    """
    by_label = read_runs(runs)
    colours = colour_legend(by_label)
    drawn = {label: measures[group[0].path.name] for label, group in by_label.items()}
    rows = [("warm-up", START_COLOUR, measures[warmup])]
    rows += [(label, colours[label], found) for label, found in drawn.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(3, 3, {name: colour for name, colour, _ in rows})
        draw_panel(axes[0], by_label, Panel("Policy entropy", "entropy/mean"))
        _draw_pass_at(axes[1], rows)
        _draw_forms(axes[2], rows)
        save_figure(figure, path)


def _draw_pass_at(axes: Axes, rows: Sequence[tuple[str, str, Measures]]) -> None:
    for name, colour, found in rows:
        line = "--" if name == "warm-up" else "-"
        shares = [100 * found["pass_at"][k] for k in BUDGETS]
        axes.plot(BUDGETS, shares, line, color=colour, marker="o", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(BUDGETS, map(str, BUDGETS))
    axes.set_ylim(bottom=0)
    axes.set(title="Unseen problems solved by k samples", xlabel="k", ylabel="%")


def _draw_forms(axes: Axes, rows: Sequence[tuple[str, str, Measures]]) -> None:
    forms = list(rows[0][2]["only"])
    width = 0.8 / len(rows)
    for position, (_, colour, found) in enumerate(rows):
        places = [place + (position - (len(rows) - 1) / 2) * width for place in range(len(forms))]
        heights = [100 * found["only"][form] for form in forms]
        axes.bar(places, heights, width * 0.92, color=colour)
    axes.set_xticks(range(len(forms)), forms)
    axes.grid(visible=False, axis="x")
    axes.set(title="pass@16 where one form alone solves", xlabel="the form", ylabel="%")
