"""A run folder, read for comparison with others.

metrics.jsonl  config.yaml  samples/step_000001.jsonl  report/
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megatron_stare.errors import UserError
from megatron_stare.observe.history import History, Series, read_metrics

BAND = 0.25
"""Half-width of the target band, as a part of the target entropy."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's metrics and resolved config.

    Runs whose names differ in `-seedN` only share a label.
    """

    path: Path
    history: History
    config: dict[str, Any]

    @property
    def label(self) -> str:
        """The folder's name without `-seedN`."""
        return re.sub(r"-seed\d+$", "", self.path.name)

    def sample_steps(self) -> list[int]:
        """Steps whose samples were dumped, ascending."""
        return sorted(int(path.stem.removeprefix("step_")) for path in self._dumps())

    def samples(self, step: int, limit: int) -> list[dict[str, Any]]:
        """The first sample of each of the first `limit` prompts of a step.

        Raises:
            UserError: a line is not JSON, or lacks a field the report shows.
        """
        path = self.path / "samples" / f"step_{step:06d}.jsonl"
        by_prompt = itertools.groupby(_read_samples(path), key=lambda sample: sample["prompt"])
        return [next(group) for _, group in itertools.islice(by_prompt, limit)]

    def _dumps(self) -> Iterator[Path]:
        return (self.path / "samples").glob("step_*.jsonl")


Runs = Mapping[str, Sequence[RunFolder]]
"""Runs by label."""


def read_runs(folders: Sequence[Path]) -> Runs:
    """Runs by label, in the order given.

    Raises:
        UserError: a folder is not that of a run, or two runs have the same name.
    """
    by_label: dict[str, list[RunFolder]] = {}
    names: dict[str, Path] = {}
    for folder in (folder.resolve() for folder in folders):
        if folder.name in names:
            raise UserError(f"{folder}: has the name of {names[folder.name]}; rename one of them")
        names[folder.name] = folder
        run = RunFolder(folder, read_metrics(folder), _read_config(folder / "config.yaml"))
        by_label.setdefault(run.label, []).append(run)
    if not names:
        raise UserError("no run folders given; expected at least one")
    return by_label


def titles(runs: Runs) -> list[str]:
    """Labels, with the number of seeds where there are several."""
    seeds = [f" ({len(group)} seeds)" if len(group) > 1 else "" for group in runs.values()]
    return [label + count for label, count in zip(runs, seeds, strict=True)]


def pass_at_budgets(runs: Runs) -> list[int]:
    """Every k for which a run has pass@k, ascending."""
    prefix = "eval/pass_at_"
    names = {name for group in runs.values() for run in group for name in run.history}
    return sorted(int(name.removeprefix(prefix)) for name in names if name.startswith(prefix))


def target_entropy(config: Mapping[str, Any]) -> float | None:
    """The entropy that STARE aims at in a resolved config, in nats; None where STARE is off."""
    stare = config.get("stare", {"enabled": False})
    return stare["target_entropy"] if stare["enabled"] else None


def num_steps(config: Mapping[str, Any]) -> int | None:
    """The steps a resolved config asks for; None for an evaluation."""
    return next((config[loop]["steps"] for loop in ("train", "sft") if loop in config), None)


@dataclass(frozen=True, slots=True)
class Spread:
    """A metric over the runs of one label: mean, smallest and largest value, `[n]` each."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def spread(runs: Sequence[RunFolder], metric: str) -> Spread | None:
    """A metric at the steps that all runs have; None where there are none."""
    found = [run.history[metric] for run in runs if metric in run.history]
    steps = (
        sorted(set.intersection(*(set(series.steps.tolist()) for series in found))) if found else []
    )
    if not steps:
        return None
    values = np.stack([_values_at(series, steps) for series in found])
    return Spread(np.array(steps), values.mean(0), values.min(0), values.max(0))


def _values_at(series: Series, steps: Sequence[int]) -> np.ndarray:
    return series.values[np.searchsorted(series.steps, steps)]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the config of the run ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected the resolved config, found {type(config).__name__}")
    return config


_SAMPLE_FIELDS = ("prompt", "response", "reward", "correct", "finish_reason")


def _read_samples(path: Path) -> Iterator[dict[str, Any]]:
    # A dump of long responses is large, and only its first lines are shown: never read it whole.
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return  # The run is writing it, or was killed there.
            try:
                sample = json.loads(line)
                yield {field: sample[field] for field in _SAMPLE_FIELDS}
            except (json.JSONDecodeError, TypeError, KeyError) as error:
                wanted = ", ".join(_SAMPLE_FIELDS)
                raise UserError(f"{path}:{number}: expected {wanted} ({error!r})") from None
