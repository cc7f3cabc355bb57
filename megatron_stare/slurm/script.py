"""The script of a job: the template `job.sbatch.jinja`, filled in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.loops import LoopConfig
from megatron_stare.errors import UserError
from megatron_stare.slurm.job import Job, plan_job, servers_of

_TEMPLATE = Path(__file__).with_name("job.sbatch.jinja")
_PROGRAM = "python -m megatron_stare.cli"


class ArrayRun(NamedTuple):
    """A run of a job array: what it is, the file that says so, and its folder."""

    config: LoopConfig
    path: Path
    folder: Path


def render(config: LoopConfig, path: Path, overrides: Sequence[str] = ()) -> str:
    """The script that runs `megatron-stare COMMAND PATH OVERRIDES` as `config.slurm` says.

    Args:
        config: read from `path` with `overrides`.

    Raises:
        UserError: as `plan_job`.
    """
    # The job's own are in the script already, in its header and as RUN_DIR.
    of_the_run = [text for text in overrides if not text.startswith(("slurm.", "run.dir="))]
    settings = _settings(config, plan_job(config))
    return _filled(settings | {"config": path, "overrides": of_the_run})


def render_array(runs: Sequence[ArrayRun], folder: Path) -> str:
    """The script of a job array: `megatron-stare COMMAND CONFIG` for each run, as `slurm` says.

    Args:
        runs: all of one command; the first one's `slurm` counts for the job.
        folder: what the job is named after; the runs' are in it.

    Raises:
        UserError: as `plan_job`; or the array would be a heterogeneous job.
    """
    config = runs[0].config
    job = plan_job(config)
    if job.heterogeneous:
        servers = servers_of(config)
        raise UserError(
            f"slurm.rollout.options={list(servers.options)}, slurm.rollout.gpus_per_node="
            f"{servers.gpus_per_node}: Slurm has no arrays of heterogeneous jobs"
        )
    of_the_array = {
        "title": _title(f"{folder.name}, {len(runs)} runs of", config, job),
        "name": _name(folder),
        "run_dir": folder,
        "runs": runs,
        "tasks": len(runs),
    }
    return _filled(_settings(config, job) | of_the_array)


def _filled(settings: Mapping[str, Any]) -> str:
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # "{#" is in ${#array[@]}
    )
    environment.filters["q"] = lambda value: shlex.quote(str(value))
    template = environment.from_string(_TEMPLATE.read_text())
    return template.render(settings, program=_PROGRAM)


def _settings(config: LoopConfig, job: Job) -> dict[str, Any]:
    slurm, rollout = config.slurm, servers_of(config)
    generation = config.rollout if isinstance(config, TrainConfig) else None
    return {
        "command": config.command,
        "title": _title(f"{config.run.dir.name}:", config, job),
        "name": _name(config.run.dir),
        "run_dir": config.run.dir,
        # Nodes and what is on them.
        "nodes": slurm.nodes,
        "rollout_nodes": rollout.nodes,
        "heterogeneous": job.heterogeneous,
        "colocated": generation is not None and generation.colocated,
        "gpus_per_node": slurm.gpus_per_node,
        "processes_per_node": slurm.processes_per_node,
        "trainer_gpus": slurm.processes_per_node if job.shares_nodes else slurm.gpus_per_node,
        "tasks_per_node": slurm.processes_per_node + (job.server_places if job.shares_nodes else 0),
        "cpus_per_process": slurm.cpus_per_process,
        # The job.
        "time": _clock(slurm.hours),
        "signal_s": slurm.signal_s,
        "max_restarts": slurm.max_restarts,
        "options": slurm.options,
        "rollout_options": rollout.options,
        "sweep": slurm.sweep,
        "runs": (),
        "tasks": len(slurm.sweep),
        # Every process.
        "setup": slurm.setup,
        "environment": slurm.environment,
        "container": slurm.container,
        "mounts": "".join(f"{mount}," for mount in slurm.mounts),
        # Servers.
        "servers": job.servers,
        "model": config.model.path,
        "registry": None if generation is None else generation.servers.registry,
        "servers_per_node": job.servers_per_node,
        "server_gpus": job.server_gpus,
        "server_cpus": slurm.cpus_per_process * job.server_places,
        "tensor": rollout.tensor,
        "dtype": rollout.dtype,
        "python": rollout.python,
        "router": rollout.router,
        "start_deadline_s": f"{rollout.start_deadline_s:g}",
        "sglang": rollout.sglang,
    }


def _title(what: str, config: LoopConfig, job: Job) -> str:
    slurm = config.slurm
    kind = f"{slurm.gpus_per_node} GPUs" if slurm.gpus_per_node else "CPUs"
    title = f"{what} {job.processes} trainer processes on {_count(slurm.nodes, 'node')} with {kind}"
    if not job.servers:
        return title
    servers = _count(job.server_nodes * job.servers_per_node, "SGLang server")
    where = "beside them" if job.shares_nodes else f"on {_count(job.server_nodes, 'more node')}"
    return f"{title}, {servers} {where}"


def _name(folder: Path) -> str:
    return re.sub(r"[^\w.-]", "-", folder.name) or "run"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _clock(hours: float) -> str:
    """As Slurm writes it; it counts whole minutes."""
    minutes = max(round(hours * 60), 1)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"
