"""What a person watching the run sees: progress bars, a line per step, tables.

On a terminal the bars live below the lines and vanish with their phase. Elsewhere (a file, a Slurm
log) everything is plain lines, and a long phase says now and then how far it is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import IO, Any, cast

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from megatron_stare.errors import printable
from megatron_stare.observe.held_out import prefixes
from megatron_stare.observe.metrics import METRICS, targets_of
from megatron_stare.system.output_stream import OutputStream

HEARTBEAT_S = 30.0
_STEPS_OF_RATE = 20

Advance = Callable[[int], None]
"""Called with the number of items done since the last call."""


def open_console(*, quiet: bool) -> Console:
    """The console of this process; a quiet one prints nothing."""
    return _Console(file=cast(IO[str], OutputStream()), quiet=quiet, highlight=False)


class _Console(Console):
    """Leaves a closed pipe to the command line, where rich would end the process without a word."""

    def on_broken_pipe(self) -> None:
        raise


class Progress:
    """Shows how far a phase of the step is. One phase at a time.

    with progress.phase("generate", total=64) as advance:
        advance(1)
    """

    def __init__(
        self, console: Console, *, bars: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._bars = bars and console.is_terminal and not console.quiet
        self._clock = clock

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """A phase of `total` items; None when the number is not known."""
        if self._bars:
            with _bars(self._console) as bars:
                task = bars.add_task(name, total=total)
                yield lambda items: bars.advance(task, items)
        else:
            yield _Heartbeat(self._console, name, total, self._clock)


class _Heartbeat:
    """Prints a line when `HEARTBEAT_S` have passed since the start or since the line before."""

    def __init__(
        self, console: Console, name: str, total: int | None, clock: Callable[[], float]
    ) -> None:
        self._console = console
        self._name = name
        self._total = "" if total is None else f"/{total}"
        self._clock = clock
        self._done = 0
        self._last = clock()

    def __call__(self, items: int) -> None:
        self._done += items
        if self._clock() - self._last >= HEARTBEAT_S:
            self._last = self._clock()
            print_line(self._console, f"{self._name}: {self._done}{self._total} so far")


def _bars(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("[dim]{task.description:>8}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


_STEP_FIELDS = (
    ("sft/loss", "loss", "{:.4f}"),
    ("pairs/loss", "loss", "{:.4f}"),
    ("pairs/accuracy", "pairs", "{:6.1%}"),
    ("pairs/margin", "margin", "{:.3f}"),
    ("reward/mean", "reward", "{:6.3f}"),
    ("reward/accuracy", "accuracy", "{:6.1%}"),
    ("entropy/mean", "entropy", "{:.3f}"),
    ("rollout/response_tokens_mean", "length", "{:7.1f}"),
    ("optim/grad_norm", "grad", "{:7.3g}"),
    ("time/step_s", "time", "{:6.1f}s"),
    ("perf/tokens_per_s", "tok/s", "{:,.0f}"),
)
"""Metric, its short label and how it is written, in the order of the line."""


class ConsoleLogger:
    """One readable line a step, and one more where the step was evaluated."""

    def __init__(self, console: Console, *, num_steps: int | None) -> None:
        self._console = console
        self._num_steps = num_steps
        self._seconds: deque[float] = deque(maxlen=_STEPS_OF_RATE)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the metrics a person follows; the rest is in metrics.jsonl."""
        fields = self._step_fields(metrics)
        if fields:
            self._print(step, fields | self._left(step, metrics))
        for title, held_out in _held_out(metrics).items():
            self._print(step, {title: ""} | held_out)

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing to release."""

    def _step_fields(self, metrics: Mapping[str, float]) -> dict[str, str]:
        fields = {
            label: written.format(metrics[name])
            for name, label, written in _STEP_FIELDS
            if name in metrics
        }
        for name, label, _ in _STEP_FIELDS:
            if name in metrics:
                fields[label] += _beside(name, metrics)
        return fields

    def _left(self, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        """How long the steps behind this one take, as the last ones did."""
        if self._num_steps is None or "time/step_s" not in metrics:
            return {}
        self._seconds.append(metrics["time/step_s"])
        return {"left": duration((self._num_steps - step) * mean(self._seconds))}

    def _print(self, step: int, fields: Mapping[str, str]) -> None:
        number = f"{step}"
        if self._num_steps is not None:
            number = f"{step:{len(str(self._num_steps))}}/{self._num_steps}"
        line = Text.assemble(("step ", "dim"), (number, "bold"))
        for label, value in fields.items():
            line.append(f"  {label} ", "dim").append(value)
        print_line(self._console, line)


def _held_out(metrics: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """By title what a person follows of each held-out set; nothing where none was evaluated."""
    lines = {}
    for prefix, title in (prefixes(metrics) or {"eval": ""}).items():
        fields = {}
        for name, value in metrics.items():
            group, _, last = name.rpartition("/")
            if group == prefix and ("_at_" in last or last.endswith("_accuracy")):
                error = metrics.get(f"{name}_se")
                around = "" if error is None else f" ±{error:.1%}"
                fields[last.replace("_at_", "@")] = f"{value:.1%}{around}"
        fields.pop("avg@k_se", None)
        if fields:
            lines["held out" if prefix == "eval" else f"held out {title}"] = fields
    return lines


def _beside(name: str, metrics: Mapping[str, float]) -> str:
    """What is said beside a metric: its targets, and what else is on or off."""
    text = "".join(f"/{metrics[of]:.3g}" for of in targets_of(name) if of in metrics)
    for switch, metric in METRICS.items():
        if metric.switch_of == name and switch in metrics:
            text += f" {switch.rpartition('/')[2]} {'on ' if metrics[switch] else 'off'}"
    return text


def duration(seconds: float) -> str:
    """Such as `45s`, `12m` or `3h05m`.

    >>> duration(45.4), duration(754), duration(11_100)
    ('45s', '13m', '3h05m')
    """
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def print_line(console: Console, line: str | Text) -> None:
    """Print without markup and without wrapping, so that a step is one line in a log file too."""
    if isinstance(line, str):
        line = printable(line)
    console.print(line, markup=False, soft_wrap=True)


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column names the row."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column, title in enumerate(header):
        table.add_column(Text(title), justify="right" if column else "left", no_wrap=not column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
