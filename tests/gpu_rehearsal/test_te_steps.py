"""Transformer Engine's layers compute what torch's compute: as near to float32, both in bfloat16.

Everything of Transformer Engine but its C++ is the real one: which attention it chooses, how it
packs, shards, reduces and steps. That its kernels compute what the stand-in says they do, only a
GPU can tell (`tools/gpu_check.py`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.groups import build_groups
from tests.gpu_rehearsal.processes import Host
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

AS_NEAR = 1.25
"""Errors of two ways to round the same numbers differ by chance."""


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


@pytest.fixture(scope="module", params=["qwen3"])
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
        assert error <= AS_NEAR * with_torch[name], (name, found, with_torch)
        assert error > 0
