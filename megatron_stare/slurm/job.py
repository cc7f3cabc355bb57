"""What a config's Slurm job consists of: nodes, processes, GPUs; and whether it can be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.loops import LoopConfig
from megatron_stare.config.slurm import SlurmRolloutConfig
from megatron_stare.errors import UserError
from megatron_stare.launch.topology import check_world_size

_OWN_OPTIONS = frozenset(
    {
        *("nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "exclusive"),
        *("gpus", "gpus-per-node", "gpus-per-task", "gres", "mem", "mem-per-cpu", "mem-per-gpu"),
        *("time", "signal", "requeue", "no-requeue", "array"),
        *("job-name", "output", "open-mode"),
    }
)
"""sbatch options that the script has from other keys, or cannot do without."""


@dataclass(frozen=True, slots=True)
class Job:
    """The job of one config.

    processes      of trainers, in all
    servers        whether the job starts SGLang servers
    shares_nodes   whether they stand on the trainers' nodes
    heterogeneous  whether the servers' nodes are a component of their own
    server_gpus    for servers, on each node that has them; 0 starts servers on the CPU
    server_nodes   that have servers
    """

    processes: int
    servers: bool
    shares_nodes: bool
    heterogeneous: bool
    server_gpus: int
    server_nodes: int
    servers_per_node: int

    @property
    def server_places(self) -> int:
        """Cores of servers on a node, in cores of a trainer process."""
        return max(self.server_gpus, 1) if self.servers else 0


def plan_job(config: LoopConfig) -> Job:
    """The job of a config.

    Raises:
        UserError: it cannot be; the message names the keys and what they need.
    """
    slurm, rollout = config.slurm, servers_of(config)
    servers = isinstance(config, TrainConfig) and _starts_servers(config)
    _check_processes(config)
    _check_restarts(config)
    heterogeneous = bool(rollout.options) or rollout.gpus_per_node not in (
        None,
        slurm.gpus_per_node,
    )
    _check_options(config, heterogeneous)
    server_gpus = _server_gpus(config) if servers else 0
    return Job(
        processes=slurm.nodes * slurm.processes_per_node,
        servers=servers,
        shares_nodes=servers and rollout.nodes == 0,
        heterogeneous=heterogeneous,
        server_gpus=server_gpus,
        server_nodes=rollout.nodes or (slurm.nodes if servers else 0),
        servers_per_node=(server_gpus // rollout.tensor or 1) if servers else 0,
    )


def servers_of(config: LoopConfig) -> SlurmRolloutConfig:
    """What the config says of SGLang servers in the job; those of `train` alone have any."""
    return config.slurm.rollout if isinstance(config, TrainConfig) else SlurmRolloutConfig()


def _starts_servers(config: TrainConfig) -> bool:
    """Whether the job does; UserError where it has nodes for them and does not."""
    nodes, registry = config.slurm.rollout.nodes, config.rollout.servers.registry
    servers = config.rollout.engine == "sglang" and registry is not None
    if nodes and not servers:
        raise UserError(
            f"slurm.rollout.nodes={nodes} with rollout.engine={config.rollout.engine!r}, "
            f"rollout.servers.registry={registry}: nodes of servers need engine 'sglang', and a "
            "registry"
        )
    return servers


def _check_processes(config: LoopConfig) -> None:
    slurm = config.slurm
    if 0 < slurm.gpus_per_node < slurm.processes_per_node:
        raise UserError(
            f"slurm.processes_per_node={slurm.processes_per_node}: expected at most "
            f"slurm.gpus_per_node={slurm.gpus_per_node}, or gpus_per_node=0 for a cluster without"
        )
    try:
        check_world_size(slurm.nodes * slurm.processes_per_node, config.parallel)
    except UserError as error:
        raise UserError(
            f"slurm.nodes={slurm.nodes} x slurm.processes_per_node={slurm.processes_per_node}: "
            f"{error}"
        ) from None


def _check_restarts(config: LoopConfig) -> None:
    """A job that is queued again goes on by itself, and has time to save before."""
    if config.run.resume != "auto":
        raise UserError(
            f"run.resume={config.run.resume!r}: a job that is queued again begins like the first "
            "time, expected 'auto'"
        )
    if config.slurm.signal_s <= config.checkpoint.grace_s:
        raise UserError(
            f"slurm.signal_s={config.slurm.signal_s}: a run that is told to save takes up to "
            f"checkpoint.grace_s={config.checkpoint.grace_s:g}, expected more"
        )


def _check_options(config: LoopConfig, heterogeneous: bool) -> None:
    slurm, servers = config.slurm, servers_of(config)
    if heterogeneous and servers.nodes == 0:
        raise UserError(
            f"slurm.rollout.options={list(servers.options)}, slurm.rollout.gpus_per_node="
            f"{servers.gpus_per_node}: they are of servers' nodes, and slurm.rollout.nodes=0"
        )
    if heterogeneous and slurm.sweep:
        raise UserError(
            f"slurm.sweep={list(slurm.sweep)} with slurm.rollout.options="
            f"{list(servers.options)}, slurm.rollout.gpus_per_node="
            f"{servers.gpus_per_node}: Slurm has no arrays of heterogeneous jobs"
        )
    for key, options in (("options", slurm.options), ("rollout.options", servers.options)):
        _check_not_own(f"slurm.{key}", options)


def _check_not_own(key: str, options: Sequence[str]) -> None:
    for option in options:
        name = re.split("=", option.removeprefix("--"))[0]
        if name in _OWN_OPTIONS:
            raise UserError(
                f"{key} has {option!r}, which the script has from other keys of slurm; expected "
                "options such as --partition, --account, --qos, --constraint"
            )


def _server_gpus(config: LoopConfig) -> int:
    """GPUs for servers on each node that has them.

    Raises:
        UserError: servers do not fit on them.
    """
    slurm, rollout = config.slurm, servers_of(config)
    if rollout.nodes:
        found = slurm.gpus_per_node if rollout.gpus_per_node is None else rollout.gpus_per_node
        said = f"the {found} of a node of servers"
    else:
        found = max(slurm.gpus_per_node - slurm.processes_per_node, 0)
        said = (
            f"the {found} that slurm.processes_per_node={slurm.processes_per_node} leaves of "
            f"slurm.gpus_per_node={slurm.gpus_per_node}"
        )
    on_cpu = found == 0 and (rollout.nodes > 0 or slurm.gpus_per_node == 0)
    if found % rollout.tensor or (found == 0 and not on_cpu) or (on_cpu and rollout.tensor > 1):
        raise UserError(
            f"slurm.rollout.tensor={rollout.tensor}: servers take {said} GPUs, expected a multiple "
            "of their size; or slurm.rollout.nodes > 0"
        )
    return found
