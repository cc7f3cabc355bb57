"""What a step saves when the engine's log-probs rank the tokens: the prepass. And what it costs.

    python tools/bench_prepass.py [CONFIG] [section.key=value ...] [--runs FOLDER]

Trains CONFIG (default: tiny_addition's STARE run, which needs the warm-up of `make smoke`) twice
from the same weights, with `algorithm.stare.surprisal` `policy` and `rollout`, at the same time,
one thread each. Prints a Markdown table; both runs log the overlap of the two selections.
    overlap  share of the selected tokens that the other log-probs select too: mean, least
    entropy  of the policy over the last half, nats: mean, range
    seconds  per step, mean; "trainer" is prepass + update
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_stare.observe.history import History, read_metrics

DEMO = Path(__file__).parents[1] / "examples/tiny_addition/train.yaml"
SOURCES = ("policy", "rollout")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with and without the prepass.")
    parser.add_argument("config", type=Path, nargs="?", default=DEMO)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_prepass"))
    arguments = parser.parse_intermixed_args()
    train_both(arguments.config, arguments.overrides, arguments.runs)
    print("| surprisal | overlap | entropy | prepass s | update s | trainer s |")
    print("|---|---|---|---|---|---|")
    trainer_seconds = [report(source, read_metrics(arguments.runs / source)) for source in SOURCES]
    print(f"\ntrainer time, rollout / policy: {trainer_seconds[1] / trainer_seconds[0]:.2f}")


def train_both(config: Path, overrides: Sequence[str], runs: Path) -> None:
    """One run for each source of surprisal; they differ in nothing else."""
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "megatron_stare.cli", "train", str(config), *overrides),
                *(
                    f"algorithm.stare.surprisal={source}",
                    f"run.dir={runs / source}",
                    "log.progress=false",
                ),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for source in SOURCES
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit("a run failed; its message is above")


def report(source: str, history: History) -> float:
    """Print a run's row; its trainer seconds per step."""
    overlap = history["stare/engine_overlap"].values
    entropy = history["entropy/mean"].values
    late = entropy[len(entropy) // 2 :]
    prepass = history["time/prepass_s"].values.mean() if "time/prepass_s" in history else 0.0
    update = history["time/update_s"].values.mean()
    print(
        f"| {source} | {overlap.mean():.4f}, {overlap.min():.4f} "
        f"| {late.mean():.3f}, {late.min():.3f} to {late.max():.3f} "
        f"| {prepass:.2f} | {update:.2f} | {prepass + update:.2f} |"
    )
    return prepass + update


if __name__ == "__main__":
    main()
