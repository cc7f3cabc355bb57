"""What a comparison has found: every run with its numbers or its problem, means, differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from megatron_stare.compare.paired import Difference, paired_difference
from megatron_stare.compare.plan import PlannedRun
from megatron_stare.observe.run_folders import RunFolder, Runs, pass_at_budgets, read_runs
from megatron_stare.observe.summary import LAST, Quantity, mean_of, total

ENOUGH_SEEDS = 5


@dataclass(frozen=True, slots=True)
class Column:
    """A quantity of a run; `scale` and `digits` say how it is written, 100 as a percentage."""

    title: str
    quantity: Quantity
    scale: float
    digits: int

    def write(self, value: float, sign: str = "") -> str:
        """In the column's unit; `sign` is `+` for differences."""
        return f"{value * self.scale:{sign},.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Result:
    """A run, finished where `problem` is None; `values` by the names of columns."""

    run: PlannedRun
    problem: str | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of all planned runs, by methods and variants in their order."""

    baseline: str
    columns: Mapping[str, Column]
    results: Sequence[Result]

    @property
    def names(self) -> list[str]:
        """Of methods and variants."""
        return list(dict.fromkeys(result.run.name for result in self.results))

    def values(self, name: str, column: str) -> dict[int, float]:
        """Of the finished runs of a method, by seed."""
        return {
            result.run.seed: result.values[column]
            for result in self.results
            if result.run.name == name and column in result.values
        }

    def difference(self, name: str, column: str) -> Difference | None:
        """Of a method to the baseline; None where no seed has both."""
        return paired_difference(self.values(name, column), self.values(self.baseline, column))

    def paired_seeds(self, name: str) -> set[int]:
        """Of which both the method's run and the baseline's are finished."""
        return self._finished(name) & self._finished(self.baseline)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the differences has to know."""
        num_seeds = len({result.run.seed for result in self.results})
        return [
            *(
                f"{result.run.title} is not in the numbers: {result.problem}"
                for result in self.results
                if result.problem is not None
            ),
            *(
                f"{name} - {self.baseline}: {count} of {num_seeds} seeds, fewer than "
                f"{ENOUGH_SEEDS}: its interval is wide, or none, and leans on few draws"
                for name in self.names
                if name != self.baseline and (count := len(self.paired_seeds(name))) < ENOUGH_SEEDS
            ),
        ]

    def _finished(self, name: str) -> set[int]:
        return {
            result.run.seed
            for result in self.results
            if result.run.name == name and result.problem is None
        }


def read_results(
    runs: Sequence[PlannedRun], baseline: str, problems: Mapping[str, str]
) -> tuple[Comparison, Runs]:
    """The comparison, and the folders of the finished runs by method.

    Args:
        problems: why a run is not finished where it is not, by title.

    Raises:
        UserError: the metrics of a finished run cannot be read.
    """
    finished = [run for run in runs if run.is_finished]
    by_label = read_runs([run.folder for run in finished]) if finished else {}
    folders = {folder.path.name: folder for group in by_label.values() for folder in group}
    columns = _columns(by_label)
    results = []
    for run in runs:
        folder = folders.get(run.title)
        problem = problems[run.title] if folder is None else None
        values = {} if folder is None else _values(folder, columns)
        results.append(Result(run, problem, values))
    has_data = {name for result in results for name in result.values}
    shown = {name: column for name, column in columns.items() if name in has_data}
    return Comparison(baseline, shown, results), by_label


def _columns(runs: Runs) -> dict[str, Column]:
    most = pass_at_budgets(runs)[-1:]
    return {
        "pairs_accuracy": Column(
            "held-out pairs ranked right (%)", partial(_last, "eval/pairs_accuracy"), 100, 1
        ),
        "pairs_loss": Column("held-out loss of pairs", partial(_last, "eval/pairs_loss"), 1, 4),
        "sft_loss": Column("loss (nats)", partial(mean_of, "sft/loss", LAST), 1, 4),
        "accuracy": Column("held-out accuracy (%)", partial(_last, "eval/avg_at_k"), 100, 1),
        **{
            f"pass_at_{k}": Column(
                f"held-out pass@{k} (%)", partial(_last, f"eval/pass_at_{k}"), 100, 1
            )
            for k in most
        },
        "entropy": Column("entropy (nats)", partial(mean_of, "entropy/mean", LAST), 1, 3),
        "response_tokens": Column(
            "length (tokens)", partial(mean_of, "rollout/response_tokens_mean", LAST), 1, 1
        ),
        "drawn": Column("prompts drawn", partial(total, "rollout/drawn"), 1, 0),
        "seconds": Column("seconds", partial(total, "time/step_s"), 1, 0),
    }


def _values(folder: RunFolder, columns: Mapping[str, Column]) -> dict[str, float]:
    found = {name: column.quantity(folder) for name, column in columns.items()}
    return {name: value for name, value in found.items() if value is not None}


def _last(metric: str, folder: RunFolder) -> float | None:
    """Of the last evaluation, and of no other."""
    found = folder.history.get(metric)
    return None if found is None or not math.isfinite(found.values[-1]) else float(found.values[-1])
