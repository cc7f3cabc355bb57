"""A run as a Slurm job."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from megatron_stare.system.settings import Settings
from megatron_stare.system.values import CountOrZero, Expanded, FilePath, RankCount, Seconds


class SlurmRolloutConfig(Settings):
    """SGLang servers in the job, where `rollout.servers.registry` says that servers announce
    themselves."""

    nodes: int = Field(default=0, ge=0, le=100_000)
    """Nodes of their own; 0 puts servers on the trainers' nodes, on the GPUs that those leave."""
    gpus_per_node: CountOrZero | None = None
    """GPUs of such a node, where they are not those of the trainers' nodes."""
    options: tuple[str, ...] = ()
    """sbatch options of these nodes, such as `--partition=l40s`; with any, or with other GPUs, the
    job is a heterogeneous one."""
    tensor: RankCount = 1
    """GPUs of a server; a node has as many servers as fit, and one without GPUs has one."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the servers' weights and activations."""
    python: FilePath = Path(".venv-sglang/bin/python")
    """Of the servers' environment."""
    router: FilePath | None = None
    """Python of the router's environment, such as .venv-router/bin/python: starts a router for all
    servers on the first of their nodes; None has them asked directly."""
    start_deadline_s: Seconds = 1800.0
    """Seconds for the servers of a node to come up."""
    sglang: tuple[Expanded, ...] = ()
    """Arguments for SGLang's own launcher."""


_AN_OPTION = "--name=value without spaces, ~ or $"
_OPTION = re.compile(r"--[a-z][a-z-]*(=(?!~)[^\s$]+)?")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_]\w*")
_MOUNT = re.compile(r"(?!~)[^\s'\"\\$`,:]+:(?!~)[^\s'\"\\$`,]+")
_OVERRIDE = re.compile(r"[\w.]+=[^\s'\"\\$`/]+")


class SlurmConfig(Settings):
    """The job that `megatron-stare slurm` makes of the config; a run does not read it."""

    nodes: RankCount = 1
    """Nodes of trainers."""
    processes_per_node: RankCount = 8
    """Trainer processes on each of them, one for a GPU."""
    gpus_per_node: int = Field(default=8, ge=0, le=100_000)
    """GPUs of a node; 0 is a cluster without."""
    cpus_per_process: RankCount = 8
    """Cores of a trainer process; servers get as many for each GPU."""
    hours: float = Field(default=24.0, gt=0, le=10_000)
    """Time limit of the job, which queues itself again until the run is over."""
    signal_s: int = Field(default=600, ge=60, le=1_000_000)
    """Seconds before the limit at which the run is told to save; more than a step takes."""
    max_restarts: CountOrZero = 20
    """How often the job may be queued again, whatever the reason."""
    options: tuple[str, ...] = ()
    """Further sbatch options, such as `--partition=h200` or `--account=me`."""
    sweep: tuple[str, ...] = ()
    """Runs of a job array: the overrides of each, such as `run.seed=2 optim.lr=2e-6`."""
    setup: tuple[str, ...] = ()
    """Lines of shell that make the environment: modules, a virtual environment."""
    environment: dict[str, Expanded] = Field(default={}, exclude=True)
    """Further variables, such as NCCL_SOCKET_IFNAME; they may hold secrets, and stand in the job's
    script alone: not in a run's config.yaml, its checkpoints, W&B or what `config` prints."""
    container: Expanded | None = Field(default=None, min_length=1)
    """Image that pyxis runs every process in; None runs them on the nodes themselves."""
    mounts: tuple[str, ...] = ()
    """Folders in the container besides the one that the job is submitted from, `FROM:TO`."""

    @model_validator(mode="after")
    def _can_be_written_into_a_script(self) -> SlurmConfig:
        for key, values, pattern, expected in (
            ("options", self.options, _OPTION, _AN_OPTION),
            ("environment", self.environment, _ENVIRONMENT_NAME, "a variable's name"),
            ("mounts", self.mounts, _MOUNT, "FROM:TO without spaces, quotes, ~ or $"),
        ):
            _check_all(key, values, pattern, expected)
        for runs in self.sweep:
            if not runs.split() or not all(map(_OVERRIDE.fullmatch, runs.split())):
                raise ValueError(
                    f"sweep has {runs!r}, expected section.key=value, more behind spaces; no "
                    "quotes, slashes or $: a run's folder is named so"
                )
            if any(text.startswith(("slurm.", "run.dir=")) for text in runs.split()):
                raise ValueError(
                    f"sweep has {runs!r}, expected keys of a run: slurm's are of the whole job, "
                    "and each run's folder is named by its settings"
                )
        if len(set(self.sweep)) < len(self.sweep):
            raise ValueError(f"sweep={list(self.sweep)} has the same run twice")
        return self

    @model_validator(mode="after")
    def _container_and_mounts(self) -> SlurmConfig:
        if self.mounts and self.container is None:
            raise ValueError(f"mounts={list(self.mounts)} needs a container, found none")
        return self

    @model_validator(mode="after")
    def _saves_before_the_limit(self) -> SlurmConfig:
        if self.signal_s >= self.hours * 3600:
            raise ValueError(
                f"signal_s={self.signal_s} is no less than the time limit, hours={self.hours:g}"
            )
        return self


class TrainSlurmConfig(SlurmConfig):
    """The job that `megatron-stare slurm` makes of the config, with SGLang servers or
    without; a run does not read it."""

    rollout: SlurmRolloutConfig = SlurmRolloutConfig()

    @model_validator(mode="after")
    def _servers_can_be_written_into_a_script(self) -> TrainSlurmConfig:
        _check_all("rollout.options", self.rollout.options, _OPTION, _AN_OPTION)
        return self


def _check_all(key: str, values: Iterable[str], pattern: re.Pattern[str], expected: str) -> None:
    for value in values:
        if not pattern.fullmatch(value):
            raise ValueError(f"{key} has {value!r}, expected {expected}")
