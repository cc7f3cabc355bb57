"""`metrics.jsonl`: one JSON object per logged step, written and read back.

    {"step": 3, "unix_time_s": 1700000000.0, "reward/mean": 0.5, "entropy/mean": null}

Several lines may carry the same step (evaluation, or a step repeated after a resume): read back,
they are one step, and the last value of a metric counts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megatron_stare.errors import UserError
from megatron_stare.system.appended import AppendedFile, append_whole
from megatron_stare.system.reading import read_whole

FILE_NAME = "metrics.jsonl"
CUT_FILE_NAME = "metrics.cut.jsonl"
_NOT_METRICS = ("step", "unix_time_s")
_LAST_STEP = 2**53
_LARGEST = float(np.finfo(np.float32).max)


class Series(NamedTuple):
    """One metric over a run: int64 `[n]` ascending steps, float64 `[n]` values, NaN for null."""

    steps: np.ndarray
    values: np.ndarray


History = dict[str, Series]


class JsonlLogger:
    """Appends to `metrics.jsonl`; each line reaches the file before `log` returns.

    Where it cannot, `report` is told, and the lines are written when they can be.
    """

    def __init__(self, run_dir: Path, report: Callable[[str], None]) -> None:
        path = run_dir / FILE_NAME
        _cut_unfinished_line(path)
        self._file = AppendedFile(path, report)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line; values that JSON cannot hold (NaN, infinities) become null."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        record = {"step": step, "unix_time_s": round(time.time(), 3)} | values
        self._file.append(json.dumps(record, allow_nan=False).encode() + b"\n")

    def state_dict(self) -> dict[str, Any]:
        """How many bytes were written so far."""
        return {"metrics_bytes": self._file.size}

    def close(self) -> None:
        """Write what could not be written so far, if it can be."""
        self._file.close()


def has_metrics(run_dir: Path) -> bool:
    """Whether a run has logged in the folder."""
    path = run_dir / FILE_NAME
    return path.exists() and path.stat().st_size > 0


def cut_back(run_dir: Path, size: int) -> int:
    """Cut `metrics.jsonl` to its first `size` bytes; what goes is added to `metrics.cut.jsonl`.

    Returns:
        How many bytes it lacks to them: somebody else has cut it, or taken it away.
    """
    path = run_dir / FILE_NAME
    found = path.stat().st_size if path.exists() else 0
    if found <= size:
        return size - found
    with path.open("rb+") as file:
        file.seek(size)
        rest = file.read()
        append_whole(path.with_name(CUT_FILE_NAME), rest[: rest.rfind(b"\n") + 1])
        file.truncate(size)
    return 0


def read_metrics(run_dir: Path) -> History:
    """Every metric of a run folder, by name.

    An unfinished last line, which a killed run leaves behind, is ignored. A value that no float32
    holds counts as null.

    Raises:
        UserError: no `metrics.jsonl`, nothing in it, or a line before the last that is not one of
            metrics.
    """
    path = run_dir / FILE_NAME
    try:
        lines = read_whole(path).splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the metrics of the run ({error.strerror})") from None
    columns: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):
            place = f"{path}:{number}"
            record = _parse(line, place)
            for name, value in record.items():
                if name not in _NOT_METRICS:
                    number_of = columns.setdefault(name, {})
                    number_of[record["step"]] = _number(value, f"{place}: {name!r}")
    if not columns:
        raise UserError(f"{path}: holds no metrics; expected one JSON object per step")
    return {name: _series(column) for name, column in columns.items()}


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); expected one object per step") from None
    step = record.get("step") if isinstance(record, dict) else None
    if type(step) is not int or not 0 <= step <= _LAST_STEP:
        raise UserError(
            f"{place}: expected a JSON object with an integer 'step', found {line[:80]!r}"
        )
    return record


def _number(value: Any, place: str) -> float:
    if value is not None and type(value) not in (int, float):
        raise UserError(f"{place}: expected a number or null, found {value!r:.80}")
    return number_or_nan(value)


def number_or_nan(value: Any) -> float:
    """A number of JSON or YAML; NaN for anything else, and for what no float32 holds."""
    is_number = type(value) in (int, float) and abs(value) <= _LARGEST
    return float(value) if is_number else math.nan


def _series(column: Mapping[int, float]) -> Series:
    steps = sorted(column)
    return Series(np.array(steps, np.int64), np.array([column[step] for step in steps], np.float64))


def _cut_unfinished_line(path: Path) -> None:
    # What is appended after half a line would be lost with it.
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
