"""A comparison as tables, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from statistics import fmean

from megatron_stare.compare.paired import CONFIDENCE
from megatron_stare.compare.results import Comparison
from megatron_stare.observe.summary import MISSING

Table = tuple[list[str], list[list[str]]]
"""Header and rows; the first column names the row."""


def means_table(comparison: Comparison) -> Table:
    """A row a method: means over its finished runs, and (smallest–largest)."""
    rows = []
    for name in comparison.names:
        planned = [result for result in comparison.results if result.run.name == name]
        finished = sum(result.problem is None for result in planned)
        rows.append([name, f"{finished} of {len(planned)}"])
        for key, column in comparison.columns.items():
            values = list(comparison.values(name, key).values())
            if not values:
                rows[-1].append(MISSING)
                continue
            low, mean, high = map(column.write, (min(values), fmean(values), max(values)))
            rows[-1].append(mean if low == high else f"{mean} ({low}–{high})")
    return ["", "seeds", *_titles(comparison)], rows


def differences_table(comparison: Comparison) -> Table:
    """A row a method but the baseline: mean differences, and half the width of their intervals."""
    rows = []
    for name in comparison.names:
        if name != comparison.baseline:
            num_pairs = len(comparison.paired_seeds(name))
            cells = [_difference(comparison, name, key, num_pairs) for key in comparison.columns]
            rows.append([f"{name} - {comparison.baseline}", str(num_pairs), *cells])
    return ["", "seeds", *_titles(comparison)], rows


def runs_table(comparison: Comparison) -> Table:
    """A row a run, finished or not."""
    rows = []
    for result in comparison.results:
        values = [
            column.write(result.values[key]) if key in result.values else MISSING
            for key, column in comparison.columns.items()
        ]
        rows.append([result.run.title, *values, result.problem or "finished"])
    return ["", *_titles(comparison), "state"], rows


def to_markdown(comparison: Comparison) -> str:
    """The page of the comparison."""
    parts = ["# Comparison"]
    if comparison.warnings:
        parts.append("\n".join(f"- **{_cell(warning)}**" for warning in comparison.warnings))
    parts += ["## Means over seeds (smallest–largest)", _markdown(means_table(comparison))]
    if len(comparison.names) > 1:
        parts += [
            f"## Differences to {comparison.baseline}",
            f"Mean over seeds ± half the width of its {CONFIDENCE:.0%} interval, paired by seed "
            "(Student's t); of percentages, in points. Each interval is of one difference: of "
            "twenty methods like the baseline, one is expected to lie beside 0.",
            _markdown(differences_table(comparison)),
        ]
    parts += ["## Runs", _markdown(runs_table(comparison))]
    return "\n\n".join(parts) + "\n"


def to_json(comparison: Comparison) -> str:
    """All of it as numbers: shares as shares, differences with the seeds of their pairs."""
    tree = {
        "baseline": comparison.baseline,
        "warnings": comparison.warnings,
        "runs": [
            {
                "name": result.run.name,
                "seed": result.run.seed,
                "folder": str(result.run.folder),
                "problem": result.problem,
                "values": dict(result.values),
            }
            for result in comparison.results
        ],
        "differences": {
            name: {
                key: asdict(found)
                for key in comparison.columns
                if (found := comparison.difference(name, key)) is not None
            }
            for name in comparison.names
            if name != comparison.baseline
        },
    }
    return json.dumps(tree, indent=2) + "\n"


def _titles(comparison: Comparison) -> list[str]:
    return [column.title for column in comparison.columns.values()]


def _difference(comparison: Comparison, name: str, key: str, num_pairs: int) -> str:
    found, column = comparison.difference(name, key), comparison.columns[key]
    if found is None:
        return MISSING
    text = column.write(found.mean, "+")
    if found.half_width is not None:
        text += f" ± {column.write(found.half_width)}"
    return text if len(found.seeds) == num_pairs else f"{text} ({len(found.seeds)} seeds)"


def _markdown(table: Table) -> str:
    header, rows = table
    ruled = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(map(_line, [header, ruled, *rows]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
