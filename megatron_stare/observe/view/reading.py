"""The dumps of a run, read to be looked at: `samples/step_N.jsonl`, and `step_N.parquet` beside it.

run = read_view(Path("runs/mine"))
for group in run.groups(step):          # whole groups, in the file's order
    tokens = run.tokens(step, group)    # by index of the sample; none where none were dumped
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from megatron_stare.errors import UserError, without_surrogates
from megatron_stare.observe.run_folders import read_runs
from megatron_stare.system.reading import open_file
from megatron_stare.turns import Turn

Mark = Literal["right", "wrong", "truncated", "failed"]
MARKS: tuple[Mark, ...] = ("right", "wrong", "truncated", "failed")
_CUT = ("length", "turns", "seconds")
NUMBERS = ("logprob", "entropy", "advantage", "weight", "ratio", "rollout_logprob")


class ViewedSample(BaseModel):
    """A line of a dump; numbers are None where they are unknown."""

    group: int
    index: int
    prompt: str
    response: str
    finish_reason: str
    reward: float | None
    correct: float | None
    uid: str = ""
    source: str = ""
    answer: str = ""
    kept: bool = True
    dropped: str | None = None
    failure: str | None = None
    parts: dict[str, float] = {}
    advantage: float | None = None
    origin: str = "policy"
    turns: tuple[Turn, ...] = ()

    @property
    def marks(self) -> frozenset[Mark]:
        """What filters ask for. One whose verification failed is neither right nor wrong."""
        if self.failure is not None or self.correct is None:
            verdict: Mark = "failed"
        else:
            verdict = "right" if self.correct == 1 else "wrong"
        return frozenset({verdict, *(["truncated"] if self.finish_reason in _CUT else [])})


def is_shown(sample: ViewedSample, marks: Set[Mark]) -> bool:
    """Whether a filter lets a sample through: one of the verdicts asked for, and cut if asked."""
    verdicts = marks - {"truncated"}
    is_cut = "truncated" in sample.marks or "truncated" not in marks
    return is_cut and (not verdicts or not verdicts.isdisjoint(sample.marks))


def facts_of(sample: ViewedSample, num_tokens: int | None) -> list[str]:
    """What a line says of a sample; `num_tokens` where they were dumped."""
    facts = ["not judged" if sample.reward is None else f"reward {sample.reward:.4g}"]
    if len(sample.parts) > 1:
        parts = " + ".join(f"{name} {value + 0.0:.4g}" for name, value in sample.parts.items())
        facts[0] += f" = {parts}"
    if sample.advantage is not None:
        facts.append(f"advantage {sample.advantage:.4g}")
    facts.append(f"ended by {sample.finish_reason}")
    if num_tokens is not None:
        facts.append(f"{num_tokens:,} tokens")
    if sample.origin != "policy":
        facts.append(sample.origin)
    if sample.failure is not None:
        facts.append(f"failure: {sample.failure}")
    return facts


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of a sample's response, `[n]` each; numbers are NaN where they are unknown.

    texts     pieces that make up the response
    numbers   by name: those of the file, and the surprisal
    sets      the sets that a token is in, as `L+`
    clips     the bounds that hold it back
    """

    texts: list[str]
    numbers: Mapping[str, np.ndarray]
    counted: np.ndarray
    sets: list[str]
    clips: list[str]


@dataclass(frozen=True, slots=True)
class ViewedGroup:
    """The samples of a prompt."""

    number: int
    samples: tuple[ViewedSample, ...]

    @property
    def first(self) -> ViewedSample:
        """The sample that says what is the same of all."""
        return self.samples[0]

    @property
    def num_right(self) -> int:
        """Samples whose verdict is right."""
        return sum("right" in sample.marks for sample in self.samples)


@dataclass(frozen=True)
class ViewedRun:
    """A run's dumps by step, ascending."""

    name: str
    dumps: Mapping[int, Path]

    @property
    def steps(self) -> list[int]:
        """Those that were dumped."""
        return [*self.dumps]

    def groups(self, step: int) -> list[ViewedGroup]:
        """Of a step: those of the batch, then those that were dropped.

        Raises:
            UserError: a line is no dumped sample.
        """
        return _read_groups(self.dumps[step])

    def num_tokens(self, step: int) -> int:
        """How many tokens of a step were dumped."""
        file = _open_tokens(self.dumps[step])
        return 0 if file is None else file.metadata.num_rows

    def tokens(self, step: int, group: ViewedGroup) -> dict[int, Tokens]:
        """What is known of the tokens of a group, by its samples' index.

        Raises:
            UserError: the file is no dump of tokens.
        """
        file = _open_tokens(self.dumps[step])
        if file is None or group.number >= file.metadata.num_row_groups or not group.first.kept:
            return {}
        path = self.dumps[step].with_suffix(".parquet")
        try:  # Groups of the batch are row groups, in the same order.
            return _by_sample(file.read_row_group(group.number))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a dump of tokens ({error!r:.200})") from None


def read_view(folder: Path) -> ViewedRun:
    """A run's dumps.

    Raises:
        UserError: it is no run's folder, or has no dumped samples.
    """
    ((run,),) = read_runs([folder]).values()
    if not run.dumps:
        raise UserError(
            f"{folder}/samples: has no dumped samples, expected a run with log.dump_samples=true"
        )
    return ViewedRun(without_surrogates(run.path.name), dict(sorted(run.dumps.items())))


@lru_cache(maxsize=2)
def _read_groups(path: Path) -> list[ViewedGroup]:
    samples = []
    try:
        with open_file(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # The run is writing it, or was killed there.
                samples.append(_read_line(line, f"{path}:{number}"))
    except OSError as error:
        raise UserError(f"{path}: cannot read samples ({error.strerror})") from None
    by_group = groupby(samples, key=lambda sample: sample.group)
    return [ViewedGroup(number, tuple(found)) for number, found in by_group]


def _read_line(line: bytes, place: str) -> ViewedSample:
    try:
        return ViewedSample.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{place}: not a dumped sample; {field}: {first['msg']}") from None


def _by_sample(table: pa.Table) -> dict[int, Tokens]:
    """The tokens of a group; those of a sample stand together."""
    numbers = {
        name: table[name].to_numpy().astype(np.float32)  # Null is NaN.
        for name in NUMBERS
    }
    numbers = {"surprisal": -numbers["logprob"], **numbers}
    counted, index = table["counted"].to_numpy(), table["index"].to_numpy()
    texts, sets, clips = (table[name].to_pylist() for name in ("text", "set", "clip"))
    starts = [0, *(np.flatnonzero(np.diff(index)) + 1), len(index)]
    return {
        int(index[start]): Tokens(
            texts[start:end],
            {name: values[start:end] for name, values in numbers.items()},
            counted[start:end],
            sets[start:end],
            clips[start:end],
        )
        for start, end in pairwise(starts)
        if start < end
    }


@lru_cache(maxsize=2)
def _open_tokens(dump: Path) -> pq.ParquetFile | None:
    path = dump.with_suffix(".parquet")
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a dump of tokens ({error!r:.200})") from None
