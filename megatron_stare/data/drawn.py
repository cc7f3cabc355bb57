"""Rows of tokens that are given, drawn epoch after epoch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from megatron_stare.data.cursor import EpochCursor, digest_of
from megatron_stare.data.tables import RowReport

TokenRow = tuple[array[int], ...]
"""What a row has become; the first part is its prompt."""


class DrawnSet:
    """Rows in a seeded order, another one every epoch.

    Args:
        report: of the file, which is finished here; UserError where no row is left.
    """

    num_prefilled = 0
    """Rows with a response that began as the template begins it, too."""

    def __init__(self, rows: Sequence[TokenRow], report: RowReport, *, seed: int) -> None:
        report.finish(len(rows))
        self.report = report
        self._rows = rows
        self._cursor = EpochCursor(
            len(rows),
            seed=seed,
            shuffle=True,
            name=report.name,
            digest=digest_of(tuple(part.tobytes() for part in row) for row in rows),
        )

    def __len__(self) -> int:
        """Usable rows."""
        return len(self._rows)

    def take(self, count: int) -> list[TokenRow]:
        """The next `count` rows, going on into further epochs."""
        return [self._rows[row] for _, row in self._cursor.take(count)]

    def state_dict(self) -> dict[str, Any]:
        """Where drawing stands, as plain values."""
        return self._cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on drawing where `state` was saved; UserError where the data is not the same."""
        self._cursor.load_state_dict(state)
