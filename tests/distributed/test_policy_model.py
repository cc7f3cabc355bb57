"""The policy computes what transformers computes, under every split of the model.

Log-probs, entropies and the gradient of every parameter, for ragged packed micro-batches, on the
same weights. The vocabulary of 259 divides by no layout, heads are not hidden / num_heads wide.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.groups import build_groups
from tests.models import NETWORKS, make_hf_folder
from tests.policies import (
    RaggedBatch,
    assert_close_relative,
    merge_ranks,
    policy_pass,
    transformers_pass,
)
from tests.worlds import run_world

LAYOUTS = {
    "one process": ParallelConfig(),
    "tp2": ParallelConfig(tensor=2),
    "tp2 sp": ParallelConfig(tensor=2, sequence=True),
    "pp2": ParallelConfig(pipeline=2),
    "pp2 vpp2": ParallelConfig(pipeline=2, virtual_pipeline=2),
    "cp2": ParallelConfig(context=2),
    "tp2 sp ep2": ParallelConfig(tensor=2, sequence=True, expert=2),
    "cp2 ep2": ParallelConfig(context=2, expert=2),
}
LARGE_LAYOUTS = {
    "tp2 pp2 sp": ParallelConfig(tensor=2, pipeline=2, sequence=True),
    "cp4": ParallelConfig(context=4),
    "tp2 cp2 sp": ParallelConfig(tensor=2, context=2, sequence=True),
    "pp2 vpp2 cp2": ParallelConfig(pipeline=2, virtual_pipeline=2, context=2),
    "tp2 pp2 cp2 sp": ParallelConfig(tensor=2, pipeline=2, context=2, sequence=True),
    "tp2 sp ep2 pp2": ParallelConfig(tensor=2, sequence=True, expert=2, pipeline=2),
    "tp2 cp2 sp ep4": ParallelConfig(tensor=2, context=2, sequence=True, expert=4),
    "tp2 cp2 sp ep2": ParallelConfig(tensor=2, context=2, sequence=True, expert=2),
    "pp2 vpp2 cp2 ep2": ParallelConfig(pipeline=2, virtual_pipeline=2, context=2, expert=2),
    "cp4 ep4": ParallelConfig(context=4, expert=4),
}


def networks_of(parallel: ParallelConfig) -> list[str]:
    """The networks that a layout can hold."""
    moe = {name for name in NETWORKS if name.startswith("qwen3_moe")}
    if parallel.expert > 1:
        return sorted(moe)
    is_tensor_alone = parallel.tensor > 1 and not parallel.sequence
    return sorted(NETWORKS.keys() - moe if is_tensor_alone else NETWORKS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: make_hf_folder(root / name.replace(" ", "_"), max_shard_size="1GB", **network)
        for name, network in NETWORKS.items()
    }


@pytest.fixture(scope="module")
def expected(folders):
    batch = RaggedBatch.random()
    return {name: transformers_pass(folder, batch) for name, folder in folders.items()}


def all_networks(rank: int, folders: dict[str, Path], parallel: ParallelConfig):
    groups = build_groups(parallel)
    batch = RaggedBatch.random()
    return {name: policy_pass(path, parallel, groups, batch) for name, path in folders.items()}


@pytest.mark.parametrize(
    "parallel",
    [
        *(pytest.param(parallel, id=name) for name, parallel in LAYOUTS.items()),
        *(
            pytest.param(parallel, id=name, marks=pytest.mark.slow)
            for name, parallel in LARGE_LAYOUTS.items()
        ),
    ],
)
def test_policy_equals_transformers(parallel, folders, expected):
    here = {name: folders[name] for name in networks_of(parallel)}
    ranks = run_world(parallel.replica, all_networks, here, parallel)
    for name, folder in here.items():
        result = merge_ranks([rank[name] for rank in ranks], folder)
        torch.testing.assert_close(result.logprobs, expected[name].logprobs, atol=1e-5, rtol=0)
        torch.testing.assert_close(result.entropies, expected[name].entropies, atol=1e-5, rtol=0)
        assert result.gradients.keys() == expected[name].gradients.keys()
        assert_close_relative(result.gradients, expected[name].gradients, 1e-5)
