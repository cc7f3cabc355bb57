"""A long job in parts: several at a time within a bound of memory, each done once.

A journal in the folder being built says which parts are done, so that the job goes on where it was
stopped, by whatever.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

from megatron_stare.errors import UserError
from megatron_stare.system.appended import append_whole

JOURNAL_FILE = ".progress.jsonl"


class Budget:
    """Bytes that threads share; one that wants more than is left waits."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self._changed = Condition()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Take bytes, no more than the whole budget, for the block."""
        with self._changed:
            self._changed.wait_for(lambda: num_bytes <= self._left)
            self._left -= num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._left += num_bytes
                self._changed.notify_all()


class Journal:
    """The results of the parts that are done, on disk.

    Another job, as its description says, starts from nothing, and so does one whose journal is no
    longer as it was written: `results` is empty then, and what the folder holds besides is of no
    use.

    Raises:
        UserError: another process has it open.
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self._path = folder / JOURNAL_FILE
        self._file = self._path.open("ab+")
        try:
            self._lock(folder)
            self._file.seek(0)
            lines, size = _whole_lines(self._file.read())
            is_ours = lines[:1] == [job] and all(map(_is_result, lines[1:]))
            self.results: dict[int, Any] = dict(lines[1:]) if is_ours else {}
            self._file.truncate(size if is_ours else 0)
            if not is_ours:
                self._append(job)
        except BaseException:
            self._file.close()
            raise

    def add(self, number: int, result: Any) -> None:
        """Note that a part is done and on disk."""
        self.results[number] = result
        self._append((number, result))

    def close(self) -> None:
        """Let go of the journal, which stays."""
        self._file.close()

    def _lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another process is writing it") from None

    def _append(self, line: Any) -> None:
        append_whole(self._path, json.dumps(line).encode() + b"\n")


def _whole_lines(content: bytes) -> tuple[list[Any], int]:
    """What the lines hold, up to one that was not written to its end; and their bytes."""
    found: list[Any] = []
    size = 0
    for line in content.splitlines(keepends=True):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n"):
            break
        found.append(value)
        size += len(line)
    return found, size


def _is_result(line: Any) -> bool:
    return isinstance(line, list) and len(line) == 2 and type(line[0]) is int


def run_parts[P](
    parts: Sequence[P],
    work: Callable[[int, P], Any],
    journal: Journal,
    *,
    threads: int,
    on_done: Callable[[P], None],
) -> None:
    """Call `work(number, part)` for the parts that the journal lacks, and note the results, JSON.

    The first failure, or an interrupt, ends it when the parts under way have ended.
    """
    with ThreadPoolExecutor(threads) as pool:
        left = {
            pool.submit(work, number, part): number
            for number, part in enumerate(parts)
            if number not in journal.results
        }
        try:
            for future in as_completed(left):
                journal.add(left[future], future.result())
                on_done(parts[left[future]])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
