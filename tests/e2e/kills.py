"""Runs that are killed again and again, at random moments and while they save.

python -m tests.e2e.kills 30 [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from itertools import zip_longest
from pathlib import Path

from megatron_stare.checkpoint.folders import steps_of
from tests.e2e.processes import Running
from tests.e2e.programs import make_workspace, metrics_of
from tests.models import hf_tensors

STEPS = 6
_SECONDS = ("time/", "perf/")
SETTINGS = (
    *("checkpoint.every=2", "log.dump_samples=false", "rollout.max_rounds=1"),
    *("algorithm.stare.adaptive=true", "optim.decay=linear"),
)


def kill_repeatedly(folder: Path, *, kills: int, seed: int) -> None:
    """Kill a run so often, let it end, and compare it with one that was left in peace."""
    rng, workspace = random.Random(seed), make_workspace(folder / "workspace", num_hidden_layers=1)
    # A life is of two or three steps: the run does not come to its end before the last kill.
    steps, killed = 2 * kills, folder / "killed"
    settings = (f"train.steps={steps}", "checkpoint.every=1")
    for number in range(kills):
        with start(workspace, killed, *settings) as running:
            moment = rng.choice([_starting, _stepping, _saving])(running, rng)
            assert running.is_running, running.log.read_text()
            running.kill()
        print(f"kill {number + 1} of {kills}: {moment}, {running.num_lines()} steps", flush=True)
    found = finish(workspace, killed, *settings)
    assert_same_run(found, finish(workspace, folder / "whole", *settings))


def _starting(running: Running, rng: random.Random) -> str:
    saved, end = _saved(running), time.monotonic() + rng.uniform(0, 2)
    running.wait_for(lambda: time.monotonic() >= end or _saved(running) > saved)
    return "starting"


def _stepping(running: Running, rng: random.Random) -> str:
    _wait_for_a_checkpoint(running)
    num_steps = _num_steps(running)
    running.wait_for(lambda: _num_steps(running) > num_steps)
    running.processes[0].join(rng.uniform(0, 0.2))
    return "stepping"


def _saving(running: Running, rng: random.Random) -> str:
    _wait_for_a_checkpoint(running)
    before = _unfinished(running)
    running.wait_for(lambda: bool(_unfinished(running) - before))
    running.processes[0].join(rng.uniform(0, 0.02))
    return "saving"


def _wait_for_a_checkpoint(running: Running) -> None:
    """Of this life, so that the next one goes on from there."""
    saved = _saved(running)
    running.wait_for(lambda: _saved(running) > saved)


def _saved(running: Running) -> int:
    """The step of the newest checkpoint."""
    root = running.run_dir / "checkpoints"
    return max(steps_of(root), default=0) if root.exists() else 0


def _num_steps(running: Running) -> int:
    """As many as it has printed, in all its lives."""
    return running.log.read_text().count("tok/s")


def _unfinished(running: Running) -> set[int]:
    """Inodes of folders that are being written, or were left behind."""
    root = running.run_dir / "checkpoints"
    entries = os.scandir(root) if root.exists() else ()
    return {entry.inode() for entry in entries if entry.name.endswith(".unfinished")}


def start(workspace: Path, run: Path, *overrides: str, processes: int = 1) -> Running:
    """A run of the workspace's config, in the folder `run`; WORKSPACE in an override is its.

    Of overrides of one key the last counts.
    """
    settings = (f"train.steps={STEPS}", *SETTINGS, *overrides)
    in_workspace = (setting.replace("WORKSPACE", str(workspace)) for setting in settings)
    last = {setting.partition("=")[0]: setting for setting in in_workspace}.values()
    return Running.start(run, workspace / "train.yaml", *last, processes=processes)


def finish(workspace: Path, run: Path, *overrides: str, processes: int = 1) -> Path:
    """The same, to its end; returns its folder."""
    with start(workspace, run, *overrides, processes=processes) as running:
        assert running.wait() == 0, running.log.read_text()
    return run


def kill_and_go_on(workspace: Path, run: Path, *overrides: str) -> Path:
    """The same, killed once it has saved, and then to its end; returns its folder."""
    with start(workspace, run, *overrides) as running:
        running.wait_for(lambda: any((run / "checkpoints").glob("step_??????")))
        assert running.is_running, running.log.read_text()
        running.kill()
    return finish(workspace, run, "run.resume=must", *overrides)


def numbers_of(run: Path) -> list[dict[str, float]]:
    """Metrics of each step, but not how long they took."""
    return [
        {k: v for k, v in step.items() if not k.startswith(_SECONDS)} for step in metrics_of(run)
    ]


def lines_of(run: Path) -> list[tuple[int, list[str]]]:
    """Step and names of the metrics of each line, in the order of the file."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], [k for k in line if not k.startswith(_SECONDS)]) for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    """Equal metrics, each once, and weights equal to the bit."""
    different = _differences(numbers_of(found), numbers_of(expected))
    assert not different, "\n".join(different)
    assert lines_of(found) == lines_of(expected)
    weights = hf_tensors(expected / "hf" / "final")
    for name, tensor in hf_tensors(found / "hf" / "final").items():
        assert tensor.equal(weights[name]), name


def _differences(found: list[dict[str, float]], expected: list[dict[str, float]]) -> list[str]:
    """Which metrics of which steps are not those expected, a line each."""
    return [
        f"step {step}: {name} is {ours.get(name)}, expected {theirs.get(name)}"
        for step, (ours, theirs) in enumerate(zip_longest(found, expected, fillvalue={}), start=1)
        for name in sorted(ours.keys() | theirs.keys())
        if (name in ours, ours.get(name)) != (name in theirs, theirs.get(name))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run again and again.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill_repeatedly(Path(folder), kills=arguments.kills, seed=arguments.seed)
    print("the same metrics and the same weights as a run that was left in peace")


if __name__ == "__main__":
    main()
