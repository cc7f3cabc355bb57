"""One warm-up by SFT, then GRPO and STARE from the same start, side by side.

    python examples/tiny_addition/demo.py [--seeds 1 2 3] [--runs FOLDER]

Each seed makes three runs in FOLDER: sft-seedN, grpo-seedN and stare-seedN. The last two differ in
`algorithm.method` alone and train at the same time, one core each. At the end a table says what was
seen, and FOLDER/report holds the figures and the HTML page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from megatron_stare.observe.console import open_console
from megatron_stare.observe.plots import comparison_figure
from megatron_stare.observe.report import write_report
from megatron_stare.observe.summary import print_summary

HERE = Path(__file__).parent
DATA = HERE / "out"


def main() -> int:
    """Make the data, train, report."""
    parser = argparse.ArgumentParser(description="GRPO and STARE from one warm-up.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny_addition"))
    arguments = parser.parse_args()
    run_all([("data", [sys.executable, str(HERE / "make_data.py"), str(DATA)])])
    for seed in arguments.seeds:
        train_seed(seed, arguments.runs)
    folders = [
        arguments.runs / f"{name}-seed{seed}"
        for name in ("grpo", "stare")
        for seed in arguments.seeds
    ]
    print_summary(folders, open_console(quiet=False))
    comparison_figure(folders, arguments.runs / "comparison.png")
    print(f"figure: {arguments.runs / 'comparison.png'}")
    print(f"report: {write_report(folders, arguments.runs / 'report')}")
    return 0


def train_seed(seed: int, runs: Path) -> None:
    """Warm up once, then GRPO and STARE at the same time from the same weights."""
    warm = runs / f"sft-seed{seed}"
    run_all([("sft", command("sft", warm, seed))])
    start = f"model.path={warm / 'hf' / 'final'}"
    run_all(
        [
            (
                method,
                command(
                    *("train", runs / f"{method}-seed{seed}", seed),
                    *(start, f"algorithm.method={method}"),
                ),
            )
            for method in ("grpo", "stare")
        ]
    )


def command(kind: str, run_dir: Path, seed: int, *overrides: str) -> list[str]:
    """`megatron-stare KIND KIND.yaml` with this run's folder and seed."""
    return [
        *(sys.executable, "-m", "megatron_stare.cli", kind, str(HERE / f"{kind}.yaml")),
        *(f"run.dir={run_dir}", f"run.seed={seed}", "log.progress=false", *overrides),
    ]


def run_all(commands: Sequence[tuple[str, list[str]]]) -> None:
    """Run named commands at the same time, one core each, their lines marked by name."""
    # So small a model gains nothing from a second thread, and loses much where cores are shared.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    processes = [
        (name, subprocess.Popen(line, env=environ, stdout=subprocess.PIPE, text=True))
        for name, line in commands
    ]
    echoes = [threading.Thread(target=echo, args=(name, process)) for name, process in processes]
    for thread in echoes:
        thread.start()
    for thread in echoes:
        thread.join()
    failed = [name for name, process in processes if process.wait() != 0]
    if failed:
        raise SystemExit(f"demo: {', '.join(failed)} failed; its message is above")


def echo(name: str, process: subprocess.Popen) -> None:
    """Print a process's lines with its name in front."""
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name:>5} | {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
