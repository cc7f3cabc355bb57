"""Measures of runs that outlive the machine which ran them: a file, a line a run and seed.

The programs of docs/countdown_plan.md take what stands there as done. A line counts for as long as
the configs are those that it was measured with.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from examples.countdown.demo import HERE

CONFIGS = ("sft.yaml", "train.yaml", "compare.yaml")


class Results:
    """Of the runs of one program, by name and seed.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "dev.jsonl"
    >>> Results(path).add("dapo", 1, {"pass_at": {1: 0.4}, "drawn": 20109.0})
    >>> Results(path).of("dapo", 1)["pass_at"], Results(path).of("dapo", 2)
    ({1: 0.4}, None)
    """

    def __init__(self, path: Path) -> None:
        """Of a file, whose folder is made where it is not there.

        Raises:
            OSError: the file cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._found: dict[tuple[str, int], dict[str, Any]] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            row = json.loads(line, object_pairs_hook=_with_numbers)
            if row["configs"] == configs():
                self._found[row["run"], row["seed"]] = row["measures"]

    def of(self, run: str, seed: int) -> dict[str, Any] | None:
        """What was measured; None where nothing was."""
        return self._found.get((run, seed))

    def add(self, run: str, seed: int, measures: dict[str, Any]) -> None:
        """Write a line.

        Raises:
            OSError: it cannot be written.
        """
        row = {"run": run, "seed": seed, "configs": configs(), "measures": measures}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._found[run, seed] = measures


def configs() -> str:
    """A digest of the settings that all runs share."""
    text = b"".join((HERE / name).read_bytes() for name in CONFIGS)
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _with_numbers(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    """An object whose keys that are numbers, as k of pass@k, are numbers again."""
    return {int(key) if key.isdigit() else key: value for key, value in pairs}
