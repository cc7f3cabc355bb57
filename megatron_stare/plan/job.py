"""What is planned: a config, the network that it names, and the machines it is to run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.policy import ParallelConfig
from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape
from megatron_stare.plan.hardware import Assumptions, Gpu
from megatron_stare.plan.weights import entries_of, num_parameters
from megatron_stare.run.preflight import check_fit
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.rules import Entry


@dataclass(frozen=True, slots=True)
class Job:
    """A run on `num_trainers` GPUs that train and `num_generators` that generate.

    entries      the network's parameters
    server_gpus  GPUs of one SGLang server, which splits the model over them
    """

    config: TrainConfig
    shape: ModelShape
    entries: tuple[Entry, ...]
    gpu: Gpu
    num_trainers: int
    num_generators: int
    server_gpus: int
    assumptions: Assumptions

    @property
    def parallel(self) -> ParallelConfig:
        """How a replica of the policy is split."""
        return self.config.parallel

    @property
    def data(self) -> int:
        """Data-parallel replicas of the policy."""
        return self.num_trainers // self.parallel.replica

    @property
    def num_servers(self) -> int:
        """SGLang servers."""
        return self.num_generators // self.server_gpus

    @property
    def prompt_tokens(self) -> int:
        """Of a prompt, as assumed and allowed."""
        return min(self.assumptions.prompt_tokens, self.config.data.max_prompt_tokens)

    @property
    def element_bytes(self) -> int:
        """Bytes of a parameter or an activation."""
        return torch.finfo(getattr(torch, self.config.model.dtype)).bits // 8

    def with_layout(self, parallel: ParallelConfig, recompute: str) -> Job:
        """The same job with another layout of the trainers; UserError where it cannot be.

        The config as a whole is checked again: padding depends on the layout.
        """
        tree = self.config.model_dump()
        tree["parallel"] = parallel.model_dump()
        tree["model"]["recompute"] = recompute
        job = replace(self, config=TrainConfig.model_validate(tree))
        check_fit(job.config, job.shape, job.num_trainers)
        return job


def open_job(
    config: TrainConfig,
    gpu: Gpu,
    *,
    num_gpus: int,
    num_generators: int | None,
    server_gpus: int | None,
    assumptions: Assumptions,
) -> Job:
    """Check a run as its start would.

    Args:
        num_gpus: of trainers and servers together.
        num_generators: of them, those that generate; default half, and none without servers.
        server_gpus: of one server; default the fewest that hold the weights twice over.

    Raises:
        UserError: model, layout and GPUs do not fit each other; what does not divide is named.
    """
    shape = read_hf_config(config.model.path)
    entries = entries_of(shape)
    has_servers = config.rollout.engine == "sglang"
    if num_generators is None:
        num_generators = num_gpus // 2 if has_servers else 0
    if has_servers != (num_generators > 0):
        raise UserError(
            f"--rollout-gpus {num_generators} with rollout.engine={config.rollout.engine!r}: "
            "engine 'sglang' needs GPUs of its own, the others have none"
        )
    num_trainers = num_gpus - num_generators
    if num_trainers < 1:
        raise UserError(
            f"--gpus {num_gpus} with --rollout-gpus {num_generators} leaves no GPU for the trainers"
        )
    if server_gpus is None:
        server_gpus = _fewest_gpus(entries, gpu) if has_servers else 1
    if has_servers and num_generators % server_gpus:
        raise UserError(
            f"--server-gpus {server_gpus} does not divide --rollout-gpus {num_generators}"
        )
    if shape.num_heads % server_gpus:
        raise UserError(
            f"--server-gpus {server_gpus} does not divide the model's {shape.num_heads} "
            "attention heads"
        )
    job = Job(config, shape, entries, gpu, num_trainers, num_generators, server_gpus, assumptions)
    check_fit(config, shape, num_trainers)
    return job


def _fewest_gpus(entries: Sequence[Entry], gpu: Gpu) -> int:
    """The power of two that leaves half of a server's memory to its cache, of those that divide."""
    needed = 2 * 2 * num_parameters(entries) / (gpu.memory_gib * 2**30)
    size = 1
    while size < needed and entries[0].shape.num_heads % (2 * size) == 0:
        size *= 2
    return size
