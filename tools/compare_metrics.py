"""Whether two runs have measured the same: every number of every step, but for how long it took.

    python tools/compare_metrics.py runs/before runs/after

prints each metric that differs, with the first step and the largest relative difference, and what
one of the runs alone has logged. The exit code is 1 if a number differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from megatron_stare.observe.history import Series, read_metrics

TIMES = ("time/", "perf/")


def main() -> int:
    """Compare, and say what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("before", type=Path, help="a run's folder")
    parser.add_argument("after", type=Path, help="another's")
    arguments = parser.parse_args()
    before, after = read_metrics(arguments.before), read_metrics(arguments.after)
    for name in sorted(before.keys() ^ after.keys()):
        print(f"{name}: only {'before' if name in before else 'after'}")
    names = sorted(name for name in before.keys() & after.keys() if not name.startswith(TIMES))
    lines = [line for name in names if (line := difference(name, before[name], after[name]))]
    print("\n".join([*lines, f"{len(lines)} of {len(names)} metrics differ"]))
    return int(bool(lines))


def difference(name: str, before: Series, after: Series) -> str:
    """What is to be said of a metric; nothing where all its steps are the same."""
    if not np.array_equal(before.steps, after.steps):
        return f"{name}: logged in {len(before.steps)} steps before, in {len(after.steps)} after"
    differs = ~np.isclose(before.values, after.values, rtol=0, atol=0, equal_nan=True)
    if not differs.any():
        return ""
    scale = np.maximum(np.abs(before.values[differs]), 1e-12)
    largest = np.max(np.abs(after.values - before.values)[differs] / scale)
    first = before.steps[differs][0]
    return f"{name}: {differs.sum()} steps, from {first} on, by {largest:.2g} at most"


if __name__ == "__main__":
    sys.exit(main())
