"""The figure of tiny_tools: entropy, what is right, and how the tools are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from megatron_stare.observe.drawing import (
    STYLE,
    Panel,
    colour_legend,
    draw_panel,
    new_figure,
    save_figure,
)
from megatron_stare.observe.run_folders import read_runs

PANELS = (
    Panel("Entropy of the model's tokens", "entropy/mean"),
    Panel("Training accuracy", "reward/accuracy"),
    Panel("Calls a sample", "tools/calls_mean"),
)


def write_figure(runs: Sequence[Path], path: Path) -> None:
    """Draw runs, seeds of a method as one line with its spread.

    Raises:
        UserError: a folder is not that of a run.
    """
    by_label = read_runs(runs)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(len(PANELS), 3, colour_legend(by_label))
        for axis, panel in zip(axes, PANELS, strict=True):
            draw_panel(axis, by_label, panel)
        save_figure(figure, path)
