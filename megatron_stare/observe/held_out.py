"""Held-out measures as a person reads them: a row a set, or a source, and what is over all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MISSING = "–"
_NAMED = re.compile(r"(eval/(?:set|source)/([^/]+))/avg_at_k")
_PASS_AT = "pass_at_"


class Table(NamedTuple):
    """Header and rows of cells; the first column names the row."""

    header: list[str]
    rows: list[list[str]]


def held_out_table(metrics: Mapping[str, float]) -> Table:
    """The table of an evaluation's `eval/*`; k is the number of samples a problem.

    `± s.e.` is the standard error of avg@k over problems. Columns that no row has anything in
    are left out.
    """
    rows = [(title, *_cells(prefix, metrics)) for prefix, title in prefixes(metrics).items()]
    shown = [
        place
        for place, _ in enumerate(_HEADER)
        if place == 0 or any(row[place] != MISSING for row in rows)
    ]
    return Table([_HEADER[p] for p in shown], [[row[p] for p in shown] for row in rows])


def prefixes(metrics: Mapping[str, float]) -> dict[str, str]:
    """By prefix of its metrics the title of each set, or source, and of what is over all."""
    found = (_NAMED.fullmatch(name) for name in metrics)
    parts = {each[1]: each[2] for each in found if each}
    over_all = {"eval": "all" if "eval/problems" in metrics else "mean"}
    has_mean = "eval/avg_at_k" in metrics and (len(parts) != 1 or "eval/problems" in metrics)
    return parts | (over_all if has_mean else {})


def samples_per_problem(prefix: str, names: Sequence[str] | Mapping[str, float]) -> int | None:
    """The largest k that pass@k is known for; None where it is for none."""
    start = f"{prefix}/{_PASS_AT}"
    return max((int(n.removeprefix(start)) for n in names if n.startswith(start)), default=None)


_HEADER = (
    *("", "problems", "k", "avg@k", "± s.e.", "pass@k", "maj@k", "tokens", "truncated"),
    "failures",
)


def _cells(prefix: str, metrics: Mapping[str, float]) -> list[str]:
    k = samples_per_problem(prefix, metrics)

    def cell(name: str, written: str) -> str:
        value = metrics.get(f"{prefix}/{name}", math.nan)
        return format(value, written) if math.isfinite(value) else MISSING

    return [
        cell("problems", ",.0f"),
        MISSING if k is None else str(k),
        cell("avg_at_k", ".1%"),
        cell("avg_at_k_se", ".1%"),
        cell(f"{_PASS_AT}{k}", ".1%") if k != 1 else MISSING,
        cell("maj_at_k", ".1%"),
        cell("response_tokens_mean", ",.1f"),
        cell("truncated_share", ".1%"),
        cell("failures", ",.0f"),
    ]
