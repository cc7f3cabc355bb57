"""Where metrics go: metrics.jsonl and the console always, the rest by config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from rich.console import Console

from megatron_stare.config.run import LogConfig
from megatron_stare.observe.console import ConsoleLogger, Progress, open_console, print_line
from megatron_stare.observe.history import FILE_NAME, JsonlLogger, cut_back
from megatron_stare.observe.metrics import find_metric
from megatron_stare.observe.run_folders import num_steps
from megatron_stare.observe.tensorboard import TensorBoardLogger
from megatron_stare.observe.trackers import MakeTracker, find_trackers, open_trackers
from megatron_stare.observe.wandb_run import open_wandb


class Logger(Protocol):
    """A place that metrics go to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step; a step may be logged in several parts."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on in the same place, as plain values."""
        ...

    def close(self) -> None:
        """Write out what is pending."""
        ...


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where a run goes on: after a step, which wrote so many bytes of metrics.jsonl."""

    step: int
    metrics_bytes: int
    wandb_id: str | None = None


class Loggers:
    """All loggers of a run, its console and its progress bars. A context manager that closes.

    The console is there from the beginning, the others from `open_files` on. Global rank 0 speaks
    for the run: on other ranks names of metrics are checked, and nothing else is done.
    """

    def __init__(
        self,
        loggers: Sequence[Logger],
        console: Console,
        progress: Progress,
        trackers: Mapping[str, MakeTracker] = MappingProxyType({}),
    ) -> None:
        self._loggers = list(loggers)
        self._trackers = trackers
        self.console = console
        self.progress = progress

    def open_files(
        self,
        log: LogConfig,
        run_dir: Path,
        resolved_config: dict[str, Any],
        position: LogPosition | None = None,
    ) -> None:
        """Open what writes into `run_dir`, which is there; nothing off global rank 0.

        An existing metrics.jsonl is continued, where it ends or at `position`.

        Raises:
            UserError: W&B, or a tracker of the user's, is configured and cannot start.
        """
        if self.console.quiet:
            return
        first_step = None if position is None else position.step + 1
        # They go first: they alone can refuse, and then no file is left open, and none was touched.
        optional: list[Logger] = [
            *open_trackers(self._trackers, run_dir, resolved_config, first_step, self.message)
        ]
        if log.wandb_project is not None:
            run_id = None if position is None else position.wandb_id
            optional.append(open_wandb(log, run_dir, resolved_config, run_id, self.message))
        if position is not None and (missing := cut_back(run_dir, position.metrics_bytes)):
            self.message(
                f"{run_dir / FILE_NAME}: {missing} bytes of what it held at step {position.step} "
                "are gone; the run goes on without"
            )
        if log.tensorboard:
            optional.append(TensorBoardLogger(run_dir, resolved_config, first_step, self.message))
        self._loggers += [JsonlLogger(run_dir, self.message), *optional]
        if (steps := num_steps(resolved_config)) is not None:  # An evaluation has a table.
            self._loggers.append(ConsoleLogger(self.console, num_steps=steps))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics everywhere.

        Raises:
            KeyError: a name is not in the glossary; nothing has been recorded then.
        """
        for name in metrics:
            find_metric(name)
        for logger in self._loggers:
            logger.log(step, metrics)

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on in the same places, as plain values."""
        return {k: v for logger in self._loggers for k, v in logger.state_dict().items()}

    def message(self, text: str) -> None:
        """Tell the person at the console."""
        print_line(self.console, text)

    def close(self) -> None:
        """Write out what is pending."""
        for logger in self._loggers:
            logger.close()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_loggers(log: LogConfig, *, rank: int = 0) -> Loggers:
    """The loggers of a run that has written nothing yet: its console, quiet off global rank 0.

    Raises:
        UserError: a tracker of the user's cannot be imported.
    """
    console = open_console(quiet=rank != 0)
    trackers = find_trackers(log) if rank == 0 else {}
    return Loggers([], console, Progress(console, bars=log.progress), trackers)
