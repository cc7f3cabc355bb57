"""A run folder, read for comparison with others.

metrics.jsonl  config.yaml  samples/step_000001.jsonl  report/
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megatron_stare.config.yaml_text import read_yaml
from megatron_stare.errors import UserError, without_surrogates
from megatron_stare.observe.history import History, Series, number_or_nan, read_metrics
from megatron_stare.observe.metrics import is_pass_at, source_of
from megatron_stare.system.reading import open_file, read_whole

_DUMP = re.compile(r"step_([0-9]{6,18})\.jsonl")
_TEXTS = ("prompt", "response", "finish_reason")
_NUMBERS = ("reward", "correct")
BAND = 0.25
"""Half-width of the target band, as a part of the target entropy."""


class ShownTurn(NamedTuple):
    """A turn of an episode, and what became of it, such as `call` or `1 call went well`."""

    kind: str
    text: str
    facts: str


class ShownSample(NamedTuple):
    """What the report shows of a dumped sample; numbers are NaN where they are unknown.

    turns  of an episode; of a single turn there are none
    """

    prompt: str
    response: str
    finish_reason: str
    reward: float
    correct: float
    turns: tuple[ShownTurn, ...]


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
        return re.sub(r"-seed\d+$", "", without_surrogates(self.path.name))

    def sample_steps(self) -> list[int]:
        """Steps whose samples were dumped, ascending."""
        return sorted(self.dumps)

    def samples(self, step: int, limit: int) -> list[ShownSample]:
        """The first sample of each of the first `limit` prompts of a step.

        Raises:
            UserError: a line is not JSON, or has no text where the report shows one.
        """
        samples = _read_samples(self.dumps[step])
        by_prompt = itertools.groupby(samples, key=lambda sample: sample.prompt)
        return [next(group) for _, group in itertools.islice(by_prompt, limit)]

    @property
    def dumps(self) -> dict[int, Path]:
        """Files by step; what else lies there is none of a run."""
        paths = (self.path / "samples").glob("step_*.jsonl")
        found = ((_DUMP.fullmatch(path.name), path) for path in paths if path.is_file())
        return {int(name[1]): path for name, path in found if name}


Runs = Mapping[str, Sequence[RunFolder]]
"""Runs by label."""


def read_runs(folders: Sequence[Path]) -> Runs:
    """Runs by label, in the order given.

    Raises:
        UserError: a folder is not that of a run, or two runs have the same name.
    """
    by_label: dict[str, list[RunFolder]] = {}
    names: dict[str, Path] = {}
    for folder in (Path(os.path.realpath(folder)) for folder in folders):
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
    names = {name for group in runs.values() for run in group for name in run.history}
    return sorted(int(name.removeprefix("eval/pass_at_")) for name in filter(is_pass_at, names))


def sources_of(runs: Runs) -> list[str]:
    """Every source that a run has metrics of, in their order in the run."""
    names = (name for group in runs.values() for run in group for name in run.history)
    return list(dict.fromkeys(filter(None, map(source_of, names))))


def num_steps(config: Mapping[str, Any]) -> int | None:
    """The steps a resolved config asks for; None for an evaluation."""
    steps = (_section(config, loop).get("steps") for loop in ("train", "sft", "prefer"))
    return next((count for count in steps if type(count) is int), None)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


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
        config = read_yaml(read_whole(path).decode())
    except OSError as error:
        raise UserError(f"{path}: cannot read the config of the run ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected the resolved config, found {type(config).__name__}")
    return config


def _read_samples(path: Path) -> Iterator[ShownSample]:
    # A dump of long responses is large, and only its first lines are shown: never read it whole.
    try:
        with open_file(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # The run is writing it, or was killed there.
                yield _shown(line, f"{path}:{number}")
    except OSError as error:
        raise UserError(f"{path}: cannot read samples ({error.strerror})") from None


def _shown(line: bytes, place: str) -> ShownSample:
    try:
        sample = json.loads(line)
        texts = [sample[field] for field in _TEXTS]
        numbers = [sample[field] for field in _NUMBERS]
        turns = tuple(_shown_turn(turn) for turn in sample.get("turns", ()))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        wanted = ", ".join(_TEXTS + _NUMBERS)
        raise UserError(f"{place}: expected {wanted} ({error!r:.200})") from None
    for field, text in zip(_TEXTS, texts, strict=True):
        if not isinstance(text, str):
            raise UserError(f"{place}: {field}: expected a text, found {text!r:.80}")
    return ShownSample(*texts, *(number_or_nan(value) for value in numbers), turns=turns)


def _shown_turn(turn: Mapping[str, Any]) -> ShownTurn:
    kind = str(turn["kind"])
    return ShownTurn(kind, str(turn["text"]), facts_of_turn(turn))


def facts_of_turn(turn: Mapping[str, Any]) -> str:
    """What became of a turn of a dump."""
    kind, facts = str(turn["kind"]), [str(turn.get("taken_as") or turn["kind"])]
    for key, what in (("num_calls", "made"), ("num_invalid", "invalid"), ("num_ok", "went well")):
        if count := turn.get(key):
            facts.append(f"{count} {what}")
    if turn.get("failure"):
        facts.append(f"failed: {turn['failure']}")
    if kind == "observation" and isinstance(seconds := turn.get("seconds"), float):
        facts.append(f"{seconds:.2g} s")
    return " · ".join(facts)
