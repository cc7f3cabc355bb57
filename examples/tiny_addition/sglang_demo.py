"""The demo's STARE run with samples from SGLang: two servers behind a router, of which one dies.

    python examples/tiny_addition/sglang_demo.py [--seed 1] [--runs FOLDER] [--kill-after STEPS]
        [section.key=value ...]

Starts from FOLDER/sft-seedN, the demo's warm-up, and trains into FOLDER/stare-sglang-seedN with the
demo's own config. After so many steps one server is killed, with its requests under way. At the end
stands a table, beside the demo's run with the embedded engine where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_stare.observe.console import open_console
from megatron_stare.observe.history import read_metrics
from megatron_stare.observe.summary import print_summary

HERE = Path(__file__).parent
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def main() -> int:
    """Serve, train, kill, report."""
    parser = argparse.ArgumentParser(description="STARE on SGLang servers.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny_addition"))
    parser.add_argument("--kill-after", type=int, default=20, help="steps; 0 kills none")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    start = arguments.runs / f"sft-seed{arguments.seed}/hf/final"
    run = arguments.runs / f"stare-sglang-seed{arguments.seed}"
    with servers(start, run / "servers") as registry:
        if arguments.kill_after > 0:
            work = (run, registry, arguments.kill_after)
            threading.Thread(target=kill_one_after, args=work, daemon=True).start()
        train(start, run, registry, arguments.seed, arguments.overrides)
    embedded = arguments.runs / f"stare-seed{arguments.seed}"
    runs = [run for run in (embedded, run) if (run / "metrics.jsonl").exists()]
    print_summary(runs, open_console(quiet=False))
    for folder in runs:
        metrics = read_metrics(folder)
        if (rate := metrics.get("perf/rollout_tokens_per_s")) is not None:
            print(f"{folder}: {rate.values.mean():.0f} response tokens generated per second")
    return 0


@contextmanager
def servers(model: Path, registry: Path) -> Iterator[Path]:
    """Two servers and a router, announced in a folder; ended with the block."""
    for stale in registry.glob("*.json"):  # of a `serve` that was killed
        stale.unlink()
    line = ["serve", str(model), "--servers", "2", "--router", "--dtype", "float32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_stare.cli", *line, "--registry", str(registry)],
        env=ENVIRON,
    )
    try:
        while len(list(registry.glob("*.json"))) < 3:
            if process.poll() is not None:
                raise SystemExit("sglang_demo: the servers did not come up; why is said above")
            time.sleep(1)
        yield registry
    finally:
        process.terminate()
        process.wait()


def train(model: Path, run: Path, registry: Path, seed: int, overrides: list[str]) -> None:
    """The demo's STARE run, but for its engine."""
    line = [
        *(sys.executable, "-m", "megatron_stare.cli", "train", str(HERE / "train.yaml")),
        *(f"model.path={model}", f"run.dir={run}", f"run.seed={seed}", "log.progress=false"),
        *("rollout.engine=sglang", f"rollout.servers.registry={registry}", *overrides),
    ]
    if subprocess.run(line, env=ENVIRON, check=False).returncode != 0:
        raise SystemExit("sglang_demo: training failed; its message is above")


def kill_one_after(run: Path, registry: Path, num_steps: int) -> None:
    """End a server with SIGKILL in the step after so many."""
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("time/update_s") < num_steps:
        time.sleep(0.5)
    entries = [json.loads(path.read_text()) for path in sorted(registry.glob("*.json"))]
    victim = next(entry for entry in entries if entry["kind"] == "server")
    print(f"sglang_demo: kill -9 of {victim['url']}", flush=True)
    os.kill(victim["pid"], signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
