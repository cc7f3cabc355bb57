"""Jobs of `megatron-stare slurm`: rendered, submitted as they are, and watched."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config_io import load_config
from megatron_stare.slurm.script import render
from tests.e2e.programs import REPO
from tests.slurm.cluster import Cluster

STEPS = 10
SETTINGS = (
    *(f"train.steps={STEPS}", "checkpoint.every=3", "log.dump_samples=false"),
    *("rollout.max_rounds=1", "algorithm.stare.adaptive=true", "optim.decay=linear"),
    "reward.kind=tests.slurm.verifier:slow_exact_reward",
    *("slurm.nodes=2", "slurm.processes_per_node=1", "slurm.cpus_per_process=1"),
    *("slurm.gpus_per_node=0", f'slurm.setup=["PATH={Path(sys.executable).parent}:$PATH"]'),
)
"""Two trainers on two nodes without GPUs."""
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "DEADLINE")
needs_cluster = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]
"""`pytestmark` of the modules that use one."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was submitted; of an array or a heterogeneous job, all parts of it."""

    cluster: Cluster
    number: str
    run_dir: Path
    output: Path

    @property
    def log(self) -> str:
        """What the script printed, of all attempts."""
        return self.output.read_text() if self.output.exists() else ""

    @property
    def logs(self) -> str:
        """The script's and every process's output, for the message of a test that fails."""
        paths = sorted(self.run_dir.glob("**/logs/*.log"))
        return "\n".join([self.log, *(f"{path}:\n{path.read_text()[-2000:]}" for path in paths)])

    def values(self, name: str) -> list[str]:
        """A field of `scontrol show job`, for each part."""
        shown = self.cluster.run("scontrol", "show", "job", self.number, "--oneliner")
        return re.findall(rf"\b{name}=(\S+)", shown)

    @property
    def restarts(self) -> int:
        """How often it was queued again."""
        return int(self.values("Restarts")[0])

    def wait_until(self, condition: Callable[[], bool], seconds: float = 400) -> None:
        """Until it holds; a job that is over meanwhile fails the test."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.is_over, self.logs
            assert time.monotonic() < deadline, self.logs
            time.sleep(0.05)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs or waits."""
        return all(state in _OVER for state in self.values("JobState"))

    def wait(self, seconds: float = 400) -> list[str]:
        """The states that its parts end in."""
        deadline = time.monotonic() + seconds
        while not self.is_over:
            assert time.monotonic() < deadline, self.logs
            time.sleep(0.1)
        return self.values("JobState")

    def wait_for_checkpoint(self) -> None:
        """Until the first attempt has saved once, and is on its way."""
        folder = self.run_dir / "checkpoints"
        self.wait_until(lambda: any(folder.glob("step_??????")))


def write_script(config: Path, run_dir: Path, *overrides: str) -> Path:
    """The script of a run in a folder."""
    overrides = (*SETTINGS, f"run.dir={run_dir}", *overrides)
    path = run_dir.with_suffix(".sbatch")
    path.write_text(render(load_config(TrainConfig, config, overrides), config, overrides))
    return path


def submit(cluster: Cluster, script: Path, run_dir: Path) -> Job:
    """As a person would, but that its log is beside the run's folder."""
    output = run_dir.with_suffix(".log")
    command = ("sbatch", "--parsable", f"--chdir={REPO}", f"--output={output}", script)
    return Job(cluster, cluster.run(*command).strip(), run_dir, output)


def start(cluster: Cluster, config: Path, run_dir: Path, *overrides: str) -> Job:
    """Write the script of a run and submit it."""
    return submit(cluster, write_script(config, run_dir, *overrides), run_dir)
