"""Megatron-Core trains on gloo without a GPU: data parallel, sharded optimizer, recompute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.policy.groups import build_groups
from megatron_stare.policy.packed import pack
from megatron_stare.weights.hf_config import read_hf_config
from tests.models import make_hf_folder
from tests.policies import CPU, RaggedBatch, assert_close_relative, forward_backward, load_policy
from tests.worlds import run_world

# isort: split
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer

# An epsilon far above rounding noise: Adam divides by the size of the gradient.
ADAM = OptimizerConfig(
    optimizer="adam",
    lr=1e-2,
    adam_eps=1e-2,
    weight_decay=0.1,
    clip_grad=1.0,
    use_distributed_optimizer=True,
)


def train(rank: int, folder: Path, recompute: str) -> tuple[list[float], dict[str, Tensor]]:
    """Gradient norms of three updates on this rank's half of the micro-batches, and the weights."""
    groups = build_groups(ParallelConfig())
    config = ModelConfig.model_validate({"path": folder, "recompute": recompute})
    (model,) = load_policy(
        read_hf_config(folder), config, ParallelConfig(), groups, use_distributed_optimizer=True
    )
    optimizer = get_megatron_optimizer(
        ADAM, [model], use_gloo_process_groups=False, pg_collection=groups.collection
    )
    batch = RaggedBatch.random()
    mine = range(rank, 2, dist.get_world_size())
    packed = [
        pack(batch.micro_batches[i], batch.prompt_lengths[i], pad_to_multiple=1, device=CPU)
        for i in mine
    ]
    norms = []
    for _ in range(3):
        model.zero_grad_buffer()
        optimizer.zero_grad()
        forward_backward([model], packed, [batch.weights[i] for i in mine], groups)
        _, norm, _ = optimizer.step()
        norms.append(norm)
    return norms, {name: p.detach().clone() for name, p in model.module.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_hf_folder(tmp_path_factory.mktemp("model") / "qwen3", "qwen3", tied=True)


def test_two_ranks_with_recompute_train_what_one_trains_without(folder):
    ((norms, weights),) = run_world(1, train, folder, "none")
    (norms_0, weights_0), (norms_1, weights_1) = run_world(2, train, folder, "full")
    assert norms_0 == norms_1
    assert norms_0 == pytest.approx(norms, rel=1e-5)
    assert all(torch.equal(weights_0[name], weights_1[name]) for name in weights)
    assert_close_relative(weights_0, weights, 1e-5)
