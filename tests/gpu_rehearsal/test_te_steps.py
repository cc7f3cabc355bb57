"""Transformer Engine's layers compute what torch's compute: as near to float32, both in bfloat16.

Everything of Transformer Engine but its C++ is the real one: which attention it chooses, how it
packs, shards, reduces and steps. That its kernels compute what the stand-in says they do, only a
GPU can tell (`tools/gpu_check.py`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.groups import build_groups
from tests.gpu_rehearsal.processes import Host
from tests.gpu_rehearsal.runs import sft_config
from tests.models import make_hf_folder
from tests.policies import (
    RaggedBatch,
    RankPass,
    TokenPass,
    merge_ranks,
    policy_pass,
    transformers_pass,
)
from tests.worlds import run_world

AS_NEAR = {"qwen3": 1.25, "qwen3_moe": 2.5}
"""Errors of two ways to round the same numbers differ by chance; more so where rounding decides
between two experts that are about as good."""


def torch_pass(rank: int, folder: str) -> RankPass:
    parallel = ParallelConfig()
    groups = build_groups(parallel)
    return policy_pass(folder, parallel, groups, RaggedBatch.random(), dtype="bfloat16")


def te_ranks(host: Host, folder: Any, layout: dict[str, Any], forward_only: bool = False) -> list:
    ranks = host.run(
        "tests.gpu_rehearsal.programs:policy_pass",
        str(folder),
        layout,
        forward_only,
        processes=ParallelConfig(**layout).replica,
    )
    used = {"generic_gemm", "rmsnorm_fwd", "fused_rope_forward", "fused_attn_fwd"}
    if not forward_only:
        used |= {"rmsnorm_bwd", "fused_rope_backward", "fused_attn_bwd"}
    for rank in ranks:
        assert rank["mixups"] == []
        assert used <= {*rank["calls"]}
    return [
        RankPass(
            rank["tp_rank"],
            torch.tensor(rank["logprobs"]),
            torch.tensor(rank["entropies"]),
            {name: torch.tensor(values) for name, values in rank["gradients"].items()},
        )
        for rank in ranks
    ]


def errors(found: TokenPass, exact: TokenPass) -> dict[str, float]:
    """Of scores in nats, the mean; of all gradients together, relative to their norm."""
    difference = [found.gradients[name] - of for name, of in exact.gradients.items()]
    return {
        "logprobs": float((found.logprobs - exact.logprobs).abs().mean()),
        "entropies": float((found.entropies - exact.entropies).abs().mean()),
        "gradients": norm(difference) / norm(exact.gradients.values()),
    }


def norm(tensors: Any) -> float:
    return float(torch.stack([tensor.float().norm() for tensor in tensors]).norm())


@pytest.fixture(scope="module", params=["qwen3", "qwen3_moe"])
def exact(request, tmp_path_factory):
    """A network of bfloat16 weights, what it is in float32, and torch's errors in 16 bits."""
    folder = tmp_path_factory.mktemp("exact") / request.param
    make_hf_folder(folder, request.param, dtype=torch.bfloat16, max_shard_size="1GB")
    expected = transformers_pass(folder, RaggedBatch.random())
    with_torch = errors(merge_ranks(run_world(1, torch_pass, folder), folder), expected)
    return folder, expected, with_torch


@pytest.mark.parametrize(
    "layout", [{}, {"tensor": 2, "sequence": True}], ids=["one rank", "tp2 sp"]
)
def test_scores_and_gradients_are_as_near_to_float32(layout, exact, fake_gpu_te):
    folder, expected, with_torch = exact
    found = errors(merge_ranks(te_ranks(fake_gpu_te, folder, layout), folder), expected)
    for name, error in found.items():
        assert error <= AS_NEAR[folder.name] * with_torch[name], (name, found, with_torch)
        assert error > 0


def test_scores_of_context_parallel_ranks(exact, fake_gpu_te):
    """Forward alone: the ring of the backward needs NCCL."""
    folder, expected, with_torch = exact
    ranks = te_ranks(fake_gpu_te, folder, {"context": 2}, forward_only=True)
    for rank in ranks:
        for name in ("logprobs", "entropies"):
            error = float((getattr(rank, name) - getattr(expected, name)).abs().mean())
            assert error <= AS_NEAR[folder.name] * with_torch[name], (name, error, with_torch)


@pytest.fixture(scope="module")
def with_torch_layers(tmp_path_factory, fake_gpu):
    """A config of `sft`, and what it measures with torch's layers."""
    folder = tmp_path_factory.mktemp("sft")
    config = sft_config(folder)
    return config, fine_tuned(fake_gpu, config, folder / "torch")


def fine_tuned(host: Host, config: Any, run: Any, *layout: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of each update."""
    ranks = host.run(
        "tests.gpu_rehearsal.programs:command",
        ["sft", str(config), f"run.dir={run}", *layout],
        processes=2 if layout else 1,
    )
    assert [(rank["code"], rank["mixups"]) for rank in ranks] == [(0, [])] * len(ranks)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(li["sft/loss"], li["optim/grad_norm"]) for li in lines if "sft/loss" in li]


@pytest.mark.parametrize("layout", [(), ("parallel.tensor=2", "parallel.sequence=true")])
def test_fused_adam_takes_the_steps_of_torchs(layout, with_torch_layers, fake_gpu_te, tmp_path):
    config, expected = with_torch_layers
    found = fine_tuned(fake_gpu_te, config, tmp_path / "te", *layout)
    assert len(found) == len(expected) == 3
    for (loss, grad_norm), (expected_loss, expected_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=0.01)
        assert grad_norm == pytest.approx(expected_norm, rel=0.03)
