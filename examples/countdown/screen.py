"""Every method of the table for a few steps from one warm-up, compared: does it run, and where to?

    python -m examples.countdown.screen [--runs FOLDER] [key=value ...]

makes the data and the warm-up of seed 1 as the demo does, and runs `screening.yaml` with all
presets of the table but those for several turns, which no response to this task has: 30 steps each,
which an update that is not finite ends. The exit code is 0 where every run is finished, and the
comparison in FOLDER/screening says what came of each. The same command goes on with what is
missing. One seed is no comparison: it finds what breaks, and what is worth more seeds. Overrides
are of the comparison: `seeds=[1,2] settings.train.steps=100 jobs=2`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from examples.countdown.demo import HERE, STARTS, exit_code_of, warm_up
from examples.countdown.make_data import Solutions, solve_all
from examples.tiny_addition.make_data import write_rows
from megatron_stare.algorithms.needs import TURNS
from megatron_stare.algorithms.table import METHODS
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError

NUM_WORKED = 4_000


def main() -> int:
    """Warm up, and run `megatron-stare compare`; its exit code."""
    parser = argparse.ArgumentParser(description="All methods for a few steps each, compared.")
    parser.add_argument("--runs", type=Path, default=Path("runs/countdown"))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    given = overrides(arguments.runs, arguments.overrides)
    try:
        config = load_config(CompareConfig, HERE / "screening.yaml", given)
        for seed in config.seeds:
            warm_up(seed, arguments.runs)
            demonstrated(arguments.runs, seed)
    except UserError as error:
        print(f"screen: {error}", file=sys.stderr)
        return 2
    return exit_code_of("compare", HERE / "screening.yaml", *given)


def overrides(runs: Path, more: Sequence[str] = ()) -> list[str]:
    """What is different from `screening.yaml`: the folder of the runs, and the presets."""
    worked = f"{runs}/screening/worked-seed{{seed}}.jsonl"
    variants = load_config(CompareConfig, HERE / "screening.yaml", ["methods=[grpo]"]).variants
    return [
        *(f"dir={runs}/screening", f"variants.hpt.data.path={worked}"),
        *(f"settings.{key}={runs}/{path}" for key, path in STARTS.items()),
        f"methods={[name for name in presets() if name not in variants]}",
        *more,
    ]


def presets() -> list[str]:
    """All that a task of single turns can run."""
    return [name for name, method in METHODS.items() if TURNS not in method.needs]


def demonstrated(runs: Path, seed: int) -> None:
    """Problems of a seed's practice, each with a worked response."""
    lines = (runs / f"data-seed{seed}" / "train.jsonl").read_text().splitlines()[:NUM_WORKED]
    rng, solutions = Random(seed), solve_all()
    folder = runs / "screening"
    folder.mkdir(parents=True, exist_ok=True)
    rows = (_worked(json.loads(line), solutions, rng) for line in lines)
    write_rows(folder / f"worked-seed{seed}.jsonl", rows)


def _worked(row: dict[str, str], solutions: Solutions, rng: Random) -> dict[str, str]:
    numbers, _, target = row["answer"].partition(">")
    problem = tuple(sorted(map(int, numbers.split(",")))), int(target)
    return {**row, "worked": str(rng.choice(solutions[problem]))}


if __name__ == "__main__":
    sys.exit(main())
