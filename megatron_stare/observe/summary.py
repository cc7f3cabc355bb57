"""The table of a comparison: a row per quantity, a column per label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from megatron_stare.observe.checkpoint_choice import CHOSEN, checkpoint_sharpe_ratio
from megatron_stare.observe.console import print_table
from megatron_stare.observe.entropy_law import ceiling_of
from megatron_stare.observe.held_out import prefixes, samples_per_problem
from megatron_stare.observe.metrics import targets_of
from megatron_stare.observe.run_folders import (
    BAND,
    RunFolder,
    Runs,
    pass_at_budgets,
    read_runs,
    sources_of,
    titles,
)

MISSING = "–"

Quantity = Callable[[RunFolder], float | None]
"""A number that sums up a run; None where the run has no data for it."""


class Row(NamedTuple):
    """A quantity with its title and the way it is written."""

    title: str
    quantity: Quantity
    write: Callable[[float], str]


class Summary(NamedTuple):
    """Header and rows of cells; the first column names the quantity."""

    header: list[str]
    rows: list[list[str]]


def print_summary(folders: Sequence[Path], console: Console) -> None:
    """Print the table that compares run folders.

    Raises:
        UserError: a folder is not that of a run.
    """
    header, rows = summarise(read_runs(folders))
    print_table(console, header, rows)


def summarise(runs: Runs) -> Summary:
    """Quantities that at least one run has; with several seeds, their mean and (min–max)."""
    rows = []
    named = [*_rows_of_sources(sources_of(runs)), *_rows_of_sets(runs)]
    for row in [*_rows(pass_at_budgets(runs)), *named]:
        cells = [_cell(row, group) for group in runs.values()]
        if set(cells) != {MISSING}:
            rows.append([row.title, *cells])
    return Summary(["", *titles(runs)], rows)


def _rows(pass_at: Sequence[int]) -> list[Row]:
    number, percent, whole = "{:.3f}".format, "{:.1%}".format, "{:,.0f}".format
    return [
        Row("Steps", _num_steps, whole),
        Row("Entropy, first 10% (nats)", partial(mean_of, "entropy/mean", FIRST), number),
        Row("Entropy, last half (nats)", partial(mean_of, "entropy/mean", LAST_HALF), number),
        Row("Target entropy, end (nats)", _last_target, number),
        Row(f"Last half within target ± {BAND:.0%}", _share_in_band, percent),
        Row("Training accuracy, first 10%", partial(mean_of, "reward/accuracy", FIRST), percent),
        Row("Training accuracy, last 10%", partial(mean_of, "reward/accuracy", LAST), percent),
        Row("Training accuracy where entropy is used up (law)", ceiling_of, percent),
        Row("Held-out accuracy, start", partial(_at, "eval/avg_at_k", 0), percent),
        Row("Held-out accuracy, end", partial(_at, "eval/avg_at_k", -1), percent),
        *(
            Row(f"Held-out pass@{k}, end", partial(_at, f"eval/pass_at_{k}", -1), percent)
            for k in pass_at[-1:]
        ),
        Row(f"SharpeRatio@{CHOSEN} of checkpoints", checkpoint_sharpe_ratio, "{:.2f}".format),
        Row("SFT loss, last 10% (nats)", partial(mean_of, "sft/loss", LAST), number),
        Row("Pairs ranked right, last 10%", partial(mean_of, "pairs/accuracy", LAST), percent),
        Row("Held-out pairs ranked right, start", partial(_at, "eval/pairs_accuracy", 0), percent),
        Row("Held-out pairs ranked right, end", partial(_at, "eval/pairs_accuracy", -1), percent),
        Row(
            "Response length, last 10% (tokens)",
            partial(mean_of, "rollout/response_tokens_mean", LAST),
            "{:,.1f}".format,
        ),
        Row("Truncated, last 10%", partial(mean_of, "rollout/truncated_share", LAST), percent),
        Row("Text behind answers, last 10%", partial(mean_of, "reward/tail_share", LAST), percent),
        Row("Groups with signal, last 10%", partial(mean_of, "reward/signal_share", LAST), percent),
        Row("Prompts drawn", partial(total, "rollout/drawn"), whole),
        Row("Verifier failures", partial(total, "reward/failures"), whole),
        Row("Skipped updates", partial(total, "optim/skipped"), whole),
        Row("Tokens per second", partial(mean_of, "perf/tokens_per_s", ALL), whole),
        Row("Training time (minutes)", _minutes, "{:,.1f}".format),
    ]


def _rows_of_sources(sources: Sequence[str]) -> list[Row]:
    percent, whole = "{:.1%}".format, "{:,.0f}".format
    return [
        row
        for name in sources
        for row in (
            Row(f"{name}: prompts drawn", partial(total, f"source/{name}/drawn"), whole),
            Row(
                f"{name}: training accuracy, last 10%",
                partial(mean_of, f"source/{name}/accuracy", LAST),
                percent,
            ),
            Row(
                f"{name}: held-out accuracy, end",
                partial(_at, f"eval/source/{name}/avg_at_k", -1),
                percent,
            ),
        )
    ]


def _rows_of_sets(runs: Runs) -> list[Row]:
    """Of every held-out set its accuracy at the end, the error of that, and what it is made of."""
    percent = "{:.1%}".format
    names = [name for group in runs.values() for run in group for name in run.history]
    found = prefixes(dict.fromkeys(names, 0.0))
    rows = []
    for prefix, title in found.items():
        if prefix.startswith("eval/set/"):
            histories = (run.history for group in runs.values() for run in group)
            counts = {samples_per_problem(prefix, [*history]) for history in histories} - {None}
            k = counts.pop() if len(counts) == 1 else "k"  # Of each its own.
            for key, what in (
                ("avg_at_k", f"avg@{k}"),
                ("avg_at_k_se", f"standard error of avg@{k}"),
                (f"pass_at_{k}", f"pass@{k}"),
                ("maj_at_k", f"maj@{k}"),
                ("truncated_share", "truncated"),
            ):
                rows.append(
                    Row(f"{title}: {what}, end", partial(_at, f"{prefix}/{key}", -1), percent)
                )
    return rows


ALL, FIRST, LAST_HALF, LAST = (0.0, 1.0), (0.0, 0.1), (0.5, 1.0), (0.9, 1.0)
"""Parts of a run, in shares of its logged steps."""


def _cell(row: Row, runs: Sequence[RunFolder]) -> str:
    values = [value for value in map(row.quantity, runs) if value is not None]
    if not values:
        return MISSING
    low, mean, high = (row.write(value) for value in (min(values), np.mean(values), max(values)))
    return mean if low == high else f"{mean} ({low}–{high})"


def _num_steps(run: RunFolder) -> float:
    return float(max(series.steps[-1] for series in run.history.values()))


def _part(run: RunFolder, metric: str, part: tuple[float, float]) -> np.ndarray:
    """Finite values of a metric over a part of the run, at least one step long."""
    if metric not in run.history:
        return np.empty(0)
    values = run.history[metric].values
    start, stop = (round(edge * len(values)) for edge in part)
    values = values[min(start, len(values) - 1) : max(stop, 1)]
    return values[np.isfinite(values)]


def mean_of(metric: str, part: tuple[float, float], run: RunFolder) -> float | None:
    """Mean of a metric over a part of the run."""
    values = _part(run, metric, part)
    return float(values.mean()) if len(values) else None


def total(metric: str, run: RunFolder) -> float | None:
    """Sum of a metric over the run."""
    values = _part(run, metric, ALL)
    return float(values.sum()) if len(values) else None


def _at(metric: str, position: int, run: RunFolder) -> float | None:
    values = _part(run, metric, ALL)
    return float(values[position]) if len(values) else None


def _target(run: RunFolder) -> str | None:
    """The metric that says what entropy a run aimed at."""
    return next((name for name in targets_of("entropy/mean") if name in run.history), None)


def _last_target(run: RunFolder) -> float | None:
    name = _target(run)
    return None if name is None else _at(name, -1, run)


def _share_in_band(run: RunFolder) -> float | None:
    entropies, name = run.history.get("entropy/mean"), _target(run)
    if entropies is None or name is None:
        return None
    targets = run.history[name]
    steps, ours, theirs = np.intersect1d(entropies.steps, targets.steps, return_indices=True)
    entropy, target = entropies.values[ours], targets.values[theirs]
    half = slice(len(steps) // 2, None)
    is_known = np.isfinite(entropy[half] + target[half])
    is_inside = np.abs(entropy - target)[half] <= BAND * target[half]
    return float(is_inside[is_known].mean()) if is_known.any() else None


def _minutes(run: RunFolder) -> float | None:
    seconds = total("time/step_s", run)
    return None if seconds is None else seconds / 60
