"""The figures of a report, and the one that sums up a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from megatron_stare.algorithms.table import PARTS
from megatron_stare.observe.drawing import (
    PHASES,
    STYLE,
    Panel,
    colour_legend,
    draw_panel,
    draw_pass_at_k,
    draw_times,
    new_figure,
    save_figure,
)
from megatron_stare.observe.entropy_law import METRICS as LAW_METRICS
from megatron_stare.observe.entropy_law import draw_entropy_law, law_of
from megatron_stare.observe.held_out_figure import METRICS as HELD_OUT_METRICS
from megatron_stare.observe.held_out_figure import draw_held_out, sets_of
from megatron_stare.observe.run_folders import Runs, pass_at_budgets, read_runs, sources_of, spread

Draw = Callable[[Axes], None]
"""Draws a panel."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A figure of panels, `columns` in a row."""

    title: str
    columns: int
    panels: tuple[Panel, ...]


def _quadrants(kind: str) -> tuple[Panel, ...]:
    names = {"pos_high": "A > 0, high surprisal", "pos_low": "A > 0, low surprisal"}
    names |= {"neg_high": "A < 0, high surprisal", "neg_low": "A < 0, low surprisal"}
    return tuple(Panel(f"{name}: {kind}", f"quadrant/{key}_{kind}") for key, name in names.items())


def _of_parts() -> dict[str, Lines]:
    """A figure for each group of metrics that parts of methods log."""
    panels: dict[str, list[Panel]] = {}
    for kind in PARTS.values():
        for name, metric in kind.metrics.items():
            if metric.title:
                panel = Panel(metric.title, name, window=metric.window)
                panels.setdefault(name.partition("/")[0], []).append(panel)
    return {group: Lines(group, 3, tuple(found)) for group, found in panels.items()}


_OF_SOURCES = {
    "drawn": "prompts drawn",
    "accuracy": "training accuracy",
    "signal_share": "groups with a signal",
    "response_tokens_mean": "mean length",
    "avg_at_k": "held-out accuracy, avg@k",
}
"""Titles of the panels that every source has."""


def _of_sources(runs: Runs) -> Lines:
    """A figure of the sources that runs draw from, a row a metric."""
    sources = sources_of(runs)
    names = [
        (title, source, f"{'eval/' if key == 'avg_at_k' else ''}source/{source}/{key}")
        for key, title in _OF_SOURCES.items()
        for source in sources
    ]
    panels = tuple(Panel(f"{source}: {title}", name) for title, source, name in names)
    return Lines("Sources", min(max(len(sources), 1), 4), panels)


def _of_sets(runs: Runs) -> Lines:
    """avg@k of each held-out set over the steps, of runs that evaluate more than once."""
    panels = [
        Panel(f"{title}: avg@k", f"{prefix}/avg_at_k")
        for prefix, title in sets_of(runs).items()
        if prefix != "eval"  # That of all stands beside the reward.
    ]
    curves = {p.metric: [spread(group, p.metric) for group in runs.values()] for p in panels}
    is_curve = {
        metric: any(each is not None and len(each.steps) > 1 for each in found)
        for metric, found in curves.items()
    }
    shown = tuple(panel for panel in panels if is_curve[panel.metric])
    return Lines("Held-out sets over the steps", 3, shown)


FIGURES: dict[str, Lines] = {
    "entropy": Lines(
        "Entropy",
        2,
        (
            Panel("Policy entropy", "entropy/mean"),
            Panel("Surprisal of the response tokens", "entropy/surprisal_mean"),
        ),
    ),
    "reward": Lines(
        "Reward and accuracy",
        3,
        (
            Panel("Reward", "reward/mean"),
            Panel("Training accuracy", "reward/accuracy"),
            Panel("Held-out accuracy, avg@k", "eval/avg_at_k"),
            Panel("Groups solved by every sample", "reward/solve_all"),
            Panel("Groups solved by no sample", "reward/solve_none"),
            Panel("Prompts without signal, dropped", "rollout/filtered"),
        ),
    ),
    "health": Lines(
        "Health: what reward and entropy do not show",
        3,
        (
            Panel("Groups with a signal", "reward/signal_share"),
            Panel("Prompts drawn a step", "rollout/drawn"),
            Panel("Distinct answers a group", "reward/distinct_answers"),
            Panel("Responses with text behind the answer", "reward/tail_share"),
            Panel("Responses that repeat themselves", "reward/repeated_share"),
            Panel("Groups of the batch without advantage", "reward/zero_advantage_share"),
        ),
    ),
    "length": Lines(
        "Response length",
        3,
        (
            Panel("Mean length", "rollout/response_tokens_mean"),
            Panel("95th percentile", "rollout/response_tokens_p95"),
            Panel("Truncated at the limit", "rollout/truncated_share"),
            Panel("Tokens of the longest 5%", "rollout/long_token_share"),
        ),
    ),
    **_of_parts(),
    "quadrants": Lines(
        "Quadrants",
        4,
        (*_quadrants("share"), *_quadrants("entropy")),
    ),
    "mismatch": Lines(
        "Trainer against engine log-probs",
        3,
        (
            Panel("KL", "mismatch/kl"),
            Panel("Mean difference", "mismatch/mean"),
            Panel("99.9th percentile", "mismatch/p999"),
            Panel("Largest difference", "mismatch/max"),
            Panel("Effective sample size", "mismatch/ess"),
            Panel("Tokens corrected", "mismatch/corrected_share"),
        ),
    ),
    "pairs": Lines(
        "Pairs",
        3,
        (
            Panel("Ranked right", "pairs/accuracy"),
            Panel("Margin", "pairs/margin"),
            Panel("Held out, ranked right", "eval/pairs_accuracy"),
            Panel("Log-prob of the better", "pairs/logprob_chosen"),
            Panel("Log-prob of the worse", "pairs/logprob_rejected"),
            Panel("Held out, margin", "eval/pairs_margin"),
        ),
    ),
    "optimizer": Lines(
        "Loss and optimizer",
        3,
        (
            Panel("Loss", "loss/total"),
            Panel("Supervised loss", "sft/loss"),
            Panel("Gradient norm", "optim/grad_norm", log_scale=True),
            Panel("Learning rate", "optim/lr"),
            Panel("Clipped below", "loss/clip_low_share"),
            Panel("Clipped above", "loss/clip_high_share"),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure on disk, its width, and the metrics drawn in it."""

    title: str
    path: Path
    width_inches: float
    metrics: tuple[str, ...]


def write_figures(runs: Runs, folder: Path) -> list[Plot]:
    """Draw everything the runs have data for, a PNG each."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    # Matplotlib reads its style when it saves, too.
    with matplotlib.rc_context(STYLE):
        for name, title, figure, metrics in _figures(runs):
            path = folder / f"{name}.png"
            save_figure(figure, path)
            plots.append(Plot(title, path, figure.get_figwidth(), metrics))
    return plots


def comparison_figure(runs: Sequence[Path], path: Path) -> None:
    """The panels that tell the story, of run folders.

    Raises:
        UserError: a folder is not that of a run.
    """
    by_label = read_runs(runs)
    draw_figure(comparison_panels(by_label), colour_legend(by_label), path)


def comparison_panels(runs: Runs) -> list[Draw]:
    """Entropy with its band, accuracy, pass@k; of what learns from responses, what it logs.

    Accuracy is held-out where every label was evaluated three times or more, else the training
    batch's. Without evaluations there is no pass@k.
    """
    held_out = [spread(group, "eval/avg_at_k") for group in runs.values()]
    is_curve = all(found is not None and len(found.steps) >= 3 for found in held_out)
    accuracy = (
        Panel("Held-out accuracy", "eval/avg_at_k")
        if is_curve
        else Panel("Training accuracy", "reward/accuracy")
    )
    logged = {metric for group in runs.values() for run in group for metric in run.history}
    shown = (
        Panel("Policy entropy", "entropy/mean"),
        accuracy,
        Panel("Pairs ranked right", "pairs/accuracy"),
        Panel("Margin of pairs", "pairs/margin"),
        Panel("Supervised loss", "sft/loss"),
    )
    panels: list[Draw] = [
        partial(draw_panel, runs=runs, panel=panel) for panel in shown if panel.metric in logged
    ]
    has_bars = bool(pass_at_budgets(runs))
    return [*panels, partial(draw_pass_at_k, runs=runs)] if has_bars else panels


def draw_figure(panels: Sequence[Draw], legend: Mapping[str, str], path: Path) -> None:
    """Panels, three in a row, as a PNG under a legend of names to colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(len(panels), 3, legend)
        for place, draw in zip(axes, panels, strict=True):
            draw(place)
        save_figure(figure, path)


def _figures(runs: Runs) -> Iterator[tuple[str, str, Figure, tuple[str, ...]]]:
    of_runs = {"sources": _of_sources(runs), "held_out_steps": _of_sets(runs)}
    for name, lines in (FIGURES | of_runs).items():
        panels = [panel for panel in lines.panels if _has_data(runs, panel.metric)]
        if panels:
            metrics = tuple(panel.metric for panel in panels)
            yield name, lines.title, _draw_lines(runs, panels, lines.columns), metrics
    if pass_at_budgets(runs):
        figure, axes = new_figure(1, 1, colour_legend(runs))
        draw_pass_at_k(axes[0], runs)
        yield "pass_at_k", "Held-out pass@k", figure, ("eval/pass_at_{k}",)
    if sets_of(runs):
        yield "held_out", "Held-out sets", draw_held_out(runs), HELD_OUT_METRICS
    if any(law_of(run) is not None for group in runs.values() for run in group):
        yield "entropy_law", "Accuracy for entropy: R = -a e^H + b", _draw_laws(runs), LAW_METRICS
    phases = [phase for phase in PHASES if _has_data(runs, f"time/{phase}_s")]
    if phases:
        metrics = tuple(f"time/{phase}_s" for phase in phases)
        yield "times", "Where the time goes", _draw_times(runs, phases), metrics


def _draw_lines(runs: Runs, panels: Sequence[Panel], columns: int) -> Figure:
    figure, axes = new_figure(len(panels), columns, colour_legend(runs))
    for place, panel in zip(axes, panels, strict=True):
        draw_panel(place, runs, panel)
    return figure


def _draw_laws(runs: Runs) -> Figure:
    legend = colour_legend(runs)
    figure, axes = new_figure(len(runs), 3, legend, share_y=True)
    for place, (label, group), colour in zip(axes, runs.items(), legend.values(), strict=True):
        draw_entropy_law(place, group, colour)
        place.set_title(label)
    return figure


def _draw_times(runs: Runs, phases: Sequence[str]) -> Figure:
    legend = {phase: PHASES[phase] for phase in phases}
    figure, axes = new_figure(len(runs), 3, legend, share_y=True)
    for place, (label, group) in zip(axes, runs.items(), strict=True):
        draw_times(place, group)
        place.set_title(label)
    axes[0].set_ylabel("seconds")
    return figure


def _has_data(runs: Runs, metric: str) -> bool:
    return any(spread(group, metric) is not None for group in runs.values())
