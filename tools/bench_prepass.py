"""What a prepass costs, and what the two ways around it save.

    python tools/bench_prepass.py [CONFIG] [section.key=value ...] [--ways ...] [--runs FOLDER]

Trains CONFIG (default: tiny_addition's STARE run, which needs the warm-up of `make smoke`) from the
same weights in each way, all at the same time, one thread each:

    grpo     no prepass: nothing has to be known before the loss
    kept     STARE; the graphs of the prepass wait for the update (`train.keep_graph=always`)
    twice    STARE; the update goes forward again (`never`)
    rollout  STARE; the engine's log-probs rank the tokens: no prepass

and prints a Markdown table of

    overlap   share of the selected tokens that the engine's log-probs select too: mean, least
    entropy   of the policy over the last half, nats: mean, range
    step      processor seconds of a step's phases, median of those after the first
    trainer   of these, prepass and update
    peak MB   resident memory of the trainer's process

`optim.lr=1e-12` makes all ways train on the same samples, so that only their ways differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from megatron_stare.observe.history import History, read_metrics

DEMO = Path(__file__).parents[1] / "examples/tiny_addition/train.yaml"
WAYS = {
    "grpo": ["algorithm.method=grpo"],
    "kept": ["train.keep_graph=always"],
    "twice": ["train.keep_graph=never"],
    "rollout": ["algorithm.stare.surprisal=rollout"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with and without the prepass.")
    parser.add_argument("config", type=Path, nargs="?", default=DEMO)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--runs", type=Path, default=Path("runs/bench_prepass"))
    arguments = parser.parse_intermixed_args()
    ways = {way: WAYS[way] for way in arguments.ways}
    peaks = train_all(arguments.config, arguments.overrides, ways, arguments.runs)
    print("| way | overlap | entropy | step s | trainer s | peak MB | step / the first's |")
    print("|---|---|---|---|---|---|---|")
    first = None
    for way in ways:
        history = read_metrics(arguments.runs / way)
        step = float(np.median(history["time/processor_s"].values[1:]))
        first = first or step
        print(
            f"| {way} | {overlap(history)} | {entropy(history)} | {step:.2f} "
            f"| {trainer_seconds(history):.2f} | {peaks[way]:,.0f} | {step / first:.2f} |"
        )


def train_all(
    config: Path, overrides: Sequence[str], ways: Mapping[str, Sequence[str]], runs: Path
) -> dict[str, float]:
    """A run in each way, which differ in nothing else; the peak memory of each, in MB."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = {}
    for way, own in ways.items():
        line = [*(sys.executable, "-m", "megatron_stare.cli", "train", str(config)), *overrides]
        line += [*own, f"run.dir={runs / way}", "log.progress=false"]
        processes[way] = os.posix_spawn(line[0], line, environ)
    peaks = {}
    for way, process in processes.items():
        _, status, used = os.wait4(process, 0)
        if status:
            raise SystemExit(f"the run {way} failed; its message is above")
        peaks[way] = used.ru_maxrss / 1024
    return peaks


def trainer_seconds(history: History) -> float:
    """Processor seconds of prepass and update, median of the steps after the first."""
    names = ("time/prepass_s", "time/update_s")
    wall = sum(history[name].values[1:] for name in names if name in history)
    # Phases are timed by the clock; of a step also the processor's share is known.
    share = history["time/processor_s"].values[1:] / history["time/step_s"].values[1:]
    return float(np.median(wall * share))


def overlap(history: History) -> str:
    """Of STARE's selections."""
    if "stare/engine_overlap" not in history:
        return ""
    values = history["stare/engine_overlap"].values
    return f"{values.mean():.4f}, {values.min():.4f}"


def entropy(history: History) -> str:
    """Over the last half of the steps."""
    values = history["entropy/mean"].values
    late = values[len(values) // 2 :]
    return f"{late.mean():.3f}, {late.min():.3f} to {late.max():.3f}"


if __name__ == "__main__":
    main()
