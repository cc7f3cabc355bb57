"""Jobs for tests: a Qwen2.5-32B on H100s, and any change of its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_stare.config.commands import TrainConfig
from megatron_stare.plan.hardware import GPUS, read_assumptions
from megatron_stare.plan.job import Job, open_job
from tests.unit.weights.published import QWEN25_32B, write

SERVERS = {"engine": "sglang", "servers": {"registry": "runs/servers"}}


def config_of(folder: Path, **changes: dict[str, Any]) -> TrainConfig:
    """Sections of a long chain-of-thought run, with keys of some of them replaced."""
    write(folder, QWEN25_32B)
    tree: dict[str, Any] = {
        "model": {"path": folder, "dtype": "bfloat16", "recompute": "full"},
        "parallel": {"tensor": 8, "context": 2, "sequence": True},
        "data": {"path": "prompts.jsonl"},
        "rollout": {**SERVERS, "prompts_per_step": 16, "max_response_tokens": 31744},
        "train": {"max_tokens_per_micro_batch": 32768},
    }
    for section, keys in changes.items():
        tree[section] = tree.get(section, {}) | keys
    return TrainConfig.model_validate(tree)


def job_of(
    config: TrainConfig, *, gpus: int = 64, generators: int | None = 48, server_gpus: int | None = 4
) -> Job:
    """The config on H100s."""
    return open_job(
        config,
        GPUS["h100-80"],
        num_gpus=gpus,
        num_generators=generators,
        server_gpus=server_gpus,
        assumptions=read_assumptions(),
    )
