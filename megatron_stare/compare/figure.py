"""The figure of a comparison: the runs' curves by method, and the differences to the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from megatron_stare.compare.results import Comparison
from megatron_stare.observe.drawing import colour_legend
from megatron_stare.observe.plots import Draw, comparison_panels, draw_figure
from megatron_stare.observe.run_folders import Runs


def write_figure(comparison: Comparison, runs: Runs, path: Path) -> None:
    """Draw the finished runs, and intervals of every difference that is a share."""
    legend = colour_legend(runs)
    colours = dict(zip(runs, legend.values(), strict=True))
    panels: list[Draw] = comparison_panels(runs)
    for column, found in comparison.columns.items():
        if found.scale == 100 and _names(comparison, column):
            panels.append(
                partial(_draw_differences, comparison=comparison, column=column, colours=colours)
            )
    draw_figure(panels, legend, path)


def _names(comparison: Comparison, column: str) -> list[str]:
    """Methods that have a difference to the baseline."""
    others = (name for name in comparison.names if name != comparison.baseline)
    return [name for name in others if comparison.difference(name, column) is not None]


def _draw_differences(
    axes: Axes, comparison: Comparison, column: str, colours: Mapping[str, str]
) -> None:
    names, scale = _names(comparison, column), comparison.columns[column].scale
    for place, name in enumerate(names):
        found = comparison.difference(name, column)
        assert found is not None, "of names that have one"
        width = None if found.half_width is None else found.half_width * scale
        axes.errorbar(
            found.mean * scale, place, xerr=width, fmt="o", color=colours[name], capsize=3
        )
    axes.axvline(0, color="#8a9099", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    title = comparison.columns[column].title.removesuffix(" (%)")
    axes.set(title=f"{title.capitalize()} - {comparison.baseline}", xlabel="points, 95% interval")
