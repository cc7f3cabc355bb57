"""The demo: one warm-up a seed, then GRPO, DAPO and STARE twice from it, measured on new problems.

    python -m examples.countdown.demo [--seeds 1 2 3] [--runs FOLDER] [section.key=value ...]

Each seed makes its data, a warm-up (`sft-seedN`) that has to pass its check, and the four runs of
compare.yaml from its weights, two at a time. At the end FOLDER holds a table and a figure for each
seed, and, of all seeds, the comparison of `megatron-stare compare`. Overrides are for the four
runs. What is done already is not done again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.countdown.figure import write_figure
from examples.countdown.make_data import make_data
from examples.countdown.measure import markdown_table, measure_runs
from examples.countdown.warmup import check_warmup
from megatron_stare.config.compare import CompareConfig
from megatron_stare.config_io import load_config
from megatron_stare.errors import UserError
from megatron_stare.system.folders import write_whole

HERE = Path(__file__).parent


def main() -> int:
    """Make the data, warm up, train, measure."""
    arguments = demo_arguments("Four runs from one warm-up, compared.", Path("runs/countdown"))
    try:
        for seed in arguments.seeds:
            warm_up(seed, arguments.runs)
        comparison = compare(
            HERE / "compare.yaml", arguments.seeds, arguments.runs, arguments.overrides
        )
        for seed in arguments.seeds:
            measure_seed(seed, comparison)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def demo_arguments(description: str, runs: Path) -> argparse.Namespace:
    """Of a demo's command line: `seeds`, the folder `runs`, and `overrides` for its runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=Path, default=runs)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_intermixed_args()


def warm_up(seed: int, runs: Path) -> None:
    """Data and warm-up of a seed.

    Raises:
        FailedWarmUp: the warm-up did not get through.
        UserError: it ended with an error.
    """
    make_data(runs / f"data-seed{seed}", seed)
    run = fine_tune(HERE / "sft.yaml", seed, runs)
    print(f"warm-up of seed {seed}: {check_warmup(run):.3f} nats a token, passed", flush=True)


def fine_tune(config: Path, seed: int, runs: Path) -> Path:
    """The supervised run of a seed from its data, both below `runs`; its folder.

    Raises:
        UserError: it ended with an error.
    """
    data, run = runs / f"data-seed{seed}", runs / f"sft-seed{seed}"
    megatron_stare(
        *("sft", config, f"run.dir={run}", f"run.seed={seed}", "log.progress=false"),
        *(f"model.path={data / 'model'}", f"data.path={data / 'sft.jsonl'}"),
    )
    return run


def compare(
    config: Path, seeds: Sequence[int], runs: Path, overrides: Sequence[str]
) -> CompareConfig:
    """The runs of each seed; what the config says with this folder and these seeds.

    Raises:
        UserError: a run ended with an error.
    """
    own = [*from_warmups(runs, seeds), *(f"settings.{override}" for override in overrides)]
    megatron_stare("compare", config, *own)
    return load_config(CompareConfig, config, own)


def from_warmups(runs: Path, seeds: Sequence[int]) -> list[str]:
    """What a comparison in a folder says of its seeds, as overrides: where they are, and start."""
    starts = (f"settings.{key}={runs}/{path}" for key, path in STARTS.items())
    return [f"dir={runs}", f"seeds={list(seeds)}", *starts]


STARTS = {
    "model.path": "sft-seed{seed}/hf/final",
    "data.path": "data-seed{seed}/train.jsonl",
    "eval.data.path": "data-seed{seed}/dev.jsonl",
}
"""Settings that are files of a seed, below the folder of the runs."""


def measure_seed(seed: int, comparison: CompareConfig) -> None:
    """Table and figure of a seed's policies on its test problems."""
    folder = comparison.dir
    warmup = folder / f"sft-seed{seed}"
    runs = [comparison.folder(name, seed) for name in comparison.arms]
    measures = measure_runs(runs, folder / f"data-seed{seed}" / "test.jsonl", warmup)
    table, figure = folder / f"measures-seed{seed}.md", folder / f"measures-seed{seed}.png"
    write_whole(table, markdown_table(measures))
    write_figure(runs, measures, warmup.name, figure)
    print(f"\nseed {seed}, problems of no other file:\n\n{markdown_table(measures)}")
    print(f"table: {table}\nfigure: {figure}", flush=True)


def megatron_stare(*arguments: object) -> None:
    """Run a command that has to end well.

    Raises:
        UserError: it failed; why is said above.
    """
    if exit_code_of(*arguments) != 0:
        raise UserError(f"{arguments[0]} failed; its message is above")


def exit_code_of(*arguments: object) -> int:
    """Run a command on one thread."""
    line = [sys.executable, "-m", "megatron_stare.cli", *map(str, arguments)]
    # So small a model gains nothing from a second thread, and loses much where cores are shared.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.run(line, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
