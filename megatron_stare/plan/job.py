"""What is planned: a config, the network that it names, and the machines it is to run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.loops import LoopConfig
from megatron_stare.config.policy import ParallelConfig
from megatron_stare.config.prefer import PreferConfig
from megatron_stare.config.rollout import RolloutConfig
from megatron_stare.errors import UserError
from megatron_stare.model_shape import ModelShape
from megatron_stare.plan.hardware import Assumptions, Gpu
from megatron_stare.run.preflight import check_fit
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import entries_of, num_parameters
from megatron_stare.weights.rules import Entry


class Rows(NamedTuple):
    """So many prompts a step with so many responses each, and their longest in tokens."""

    prompts: int
    responses: int
    prompt_tokens: int
    response_tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """A run on `num_trainers` GPUs that train and `num_generators` that generate.

    entries      the network's parameters
    server_gpus  GPUs of one SGLang server, which splits the model over them
    """

    config: LoopConfig
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
    def rollout(self) -> RolloutConfig:
        """Of a job that generates."""
        assert isinstance(self.config, TrainConfig), "it learns from given responses"
        return self.config.rollout

    @property
    def rows(self) -> Rows:
        """What a step learns from, as assumed and allowed."""
        config, prompt = self.config, self.assumptions.prompt_tokens
        if isinstance(config, TrainConfig):
            prompt, rollout = min(prompt, config.data.max_prompt_tokens), config.rollout
            counts = rollout.prompts_per_step, rollout.samples_per_prompt
            return Rows(*counts, prompt, rollout.max_response_tokens)
        longest = config.data.max_tokens
        prompt = min(prompt, longest // 2)
        pairs = isinstance(config, PreferConfig)
        counts = (config.prefer.pairs_per_step, 2) if pairs else (config.sft.examples_per_step, 1)
        return Rows(*counts, prompt, longest - prompt)

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
        job = replace(self, config=type(self.config).model_validate(tree))
        check_fit(job.config, job.shape, job.num_trainers)
        return job


def open_job(
    config: LoopConfig,
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
    has_servers = needs_servers(config)
    if num_generators is None:
        num_generators = num_gpus // 2 if has_servers else 0
    if has_servers != (num_generators > 0):
        engine = config.rollout.engine if isinstance(config, TrainConfig) else None
        raise UserError(
            f"--rollout-gpus {num_generators} with rollout.engine={engine!r}: engine 'sglang' "
            "needs GPUs of its own, the others have none"
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


def needs_servers(config: LoopConfig) -> bool:
    """Whether SGLang servers generate."""
    return isinstance(config, TrainConfig) and config.rollout.engine == "sglang"


def _fewest_gpus(entries: Sequence[Entry], gpu: Gpu) -> int:
    """The power of two that leaves half of a server's memory to its cache, of those that divide."""
    needed = 2 * 2 * num_parameters(entries) / (gpu.memory_gib * 2**30)
    size = 1
    while size < needed and entries[0].shape.num_heads % (2 * size) == 0:
        size *= 2
    return size
