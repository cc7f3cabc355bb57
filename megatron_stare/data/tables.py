"""Rows of JSONL and Parquet files, and an account of those that cannot be used."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from megatron_stare.errors import UserError

_NAMES_SHOWN = 3
_REASONS_SHOWN = 10
_FIELDS_SHOWN = 20
_TOO_DEEP = "nested too deeply"


class UnusableRow(Exception):
    """A row that cannot be used; its message is the reason, the same for all rows of that kind."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file or table. `number` counts from 1: the line of JSONL, the row of Parquet."""

    number: int
    name: str
    """`file:number`, for messages."""
    fields: dict[str, Any]

    def get(self, key: str) -> Any:
        """The value of a field; `a.b` reaches into a nested one. UnusableRow without a value."""
        value: Any = self.fields
        for part in [key] if key in self.fields else key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UnusableRow(f"no field {key!r}")
            value = value[part]
        if value is None:
            raise UnusableRow(f"field {key!r} is null")
        return value

    def text(self, key: str) -> str:
        """The value of a field that holds text: a string with something in it, or a number."""
        value = self.get(key)
        if isinstance(value, float | Decimal) and isfinite(value):
            return format(Decimal(str(value)), "f")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise UnusableRow(f"field {key!r} is a {type(value).__name__}, expected text")
        return checked_text(value, key)


def checked_text(value: str, key: str) -> str:
    """The string itself; UnusableRow where it is blank, or not valid Unicode."""
    if not value.strip():
        raise UnusableRow(f"field {key!r} is empty")
    if not is_unicode(value):
        raise UnusableRow(f"field {key!r} is not valid Unicode")
    return value


def is_unicode(text: str) -> bool:
    """Whether a tokenizer can read a text: half a surrogate pair has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(slots=True)
class RowReport:
    """How many rows of a file are used, and the names of those that are not, by reason."""

    name: str
    """Of the file, for messages."""
    num_used: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    """Fields of the first readable row."""

    @property
    def num_left_out(self) -> int:
        """Rows that are not used."""
        return sum(len(names) for names in self.left_out.values())

    def leave_out(self, name: str, reason: str) -> None:
        """Count a row that cannot be used."""
        self.left_out.setdefault(reason, []).append(name)

    def finish(self, num_used: int) -> None:
        """Settle the count; UserError where no row is left."""
        self.num_used = num_used
        if num_used == 0 and not self.left_out:
            raise UserError(f"{self.name}: the file is empty, expected one object a row")
        if num_used == 0:
            raise UserError(f"{self}{self._fields_found()}")

    def _fields_found(self) -> str:
        if not self.fields:
            return ""
        names = ", ".join(f"{name:.80}" for name in self.fields[:_FIELDS_SHOWN])
        return f"; fields found: {names}{', ...' if len(self.fields) > _FIELDS_SHOWN else ''}"

    def __str__(self) -> str:
        text = f"{self.name}: {self.num_used} of {self.num_used + self.num_left_out} rows used"
        reasons = [
            f"{len(names)} {reason} ({', '.join(names[:_NAMES_SHOWN])}"
            f"{', ...' if len(names) > _NAMES_SHOWN else ''})"
            for reason, names in islice(self.left_out.items(), _REASONS_SHOWN)
        ]
        if len(self.left_out) > _REASONS_SHOWN:
            reasons.append(f"the rest for {len(self.left_out) - _REASONS_SHOWN} other reasons")
        return f"{text}; left out: {'; '.join(reasons)}" if reasons else text


def build_rows[T](path: Path, build: Callable[[Row], T]) -> tuple[list[T], RowReport]:
    """`build(row)` of every row of a .jsonl or .parquet file, and a report of those left out.

    Left out are lines that are no JSON object, and rows for which `build` raises UnusableRow.
    UserError where the file is missing, of another kind, or not readable as what it is called.
    """
    report = RowReport(str(path))
    return _built(_read_rows(path, report), build, report), report


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that are in no file, under a name for messages."""

    name: str
    rows: Sequence[Row]

    def build[T](self, build: Callable[[Row], T]) -> tuple[list[T], RowReport]:
        """As `build_rows`."""
        report = RowReport(self.name)
        return _built(self.rows, build, report), report


def _built[T](rows: Iterable[Row], build: Callable[[Row], T], report: RowReport) -> list[T]:
    built = []
    for row in rows:
        try:
            built.append(build(row))
        except UnusableRow as reason:
            report.leave_out(row.name, str(reason))
        except RecursionError:
            report.leave_out(row.name, _TOO_DEEP)
    return built


def _read_rows(path: Path, report: RowReport) -> Iterator[Row]:
    readers = {".jsonl": _jsonl_objects, ".parquet": _parquet_objects}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: expected a file named *.jsonl or *.parquet")
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected prompts or examples, one a row")
    for number, found in readers[path.suffix.lower()](path):
        name = f"{path.name}:{number}"
        if isinstance(found, dict):
            report.fields = report.fields or tuple(found)
            yield Row(number, name, found)
        else:
            report.leave_out(name, found)


def _jsonl_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Line numbers with the object there, or with what is wrong; blank lines are no rows."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = _without_mark(line, path)
            if line.strip():
                yield number, _json_object(line)


def _without_mark(line: bytes, path: Path) -> bytes:
    """The first line without its byte order mark; UserError where that is not UTF-8's."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}: is UTF-16, expected UTF-8")
    return line.removeprefix(codecs.BOM_UTF8)


def _json_object(line: bytes) -> dict[str, Any] | str:
    try:
        value = json.loads(line)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return "malformed JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _parquet_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for value in _batch_objects(batch):
                    number += 1
                    yield number, value
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).strip()})") from None


def _batch_objects(batch: pyarrow.RecordBatch) -> list[dict[str, Any] | str]:
    """The rows of a batch; one by one where any is beyond Python: a date, or text that is none."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        if batch.num_rows == 1:
            return ["a value that is not readable"]
        rows = (batch.slice(number, 1) for number in range(batch.num_rows))
        return [value for row in rows for value in _batch_objects(row)]
