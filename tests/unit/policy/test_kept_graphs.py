"""Whether micro-batches wait for their backward pass: if all of them fit."""

import json

import pytest
import torch

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.policy import kept_graphs
from megatron_stare.policy.kept_graphs import graphs_fit, num_kept
from megatron_stare.weights.hf_config import read_hf_config
from tests.unit.plan.test_activations import NETWORK

CPU = torch.device("cpu")


@pytest.fixture
def network(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(NETWORK | {"model_type": "qwen3"}))
    return read_hf_config(tmp_path), ModelConfig(path=tmp_path), ParallelConfig()


def test_a_rank_without_micro_batches_hinders_nobody(network):
    assert graphs_fit([], 0, *network, "torch")


@pytest.mark.parametrize(("setting", "expected"), [("never", 0), ("always", 3)])
def test_a_setting_may_decide(setting, expected, network):
    assert num_kept([10**9] * 3, setting, *network, CPU) == expected


@pytest.mark.parametrize("setting", ["auto", "always"])
def test_stages_of_a_pipeline_keep_their_schedule(setting, network):
    shape, model, _ = network
    assert num_kept([1], setting, shape, model, ParallelConfig(pipeline=2), CPU) == 0


def test_graphs_wait_where_there_is_room(network, groups, monkeypatch):
    monkeypatch.setattr(kept_graphs, "available_bytes", lambda: 0)
    assert num_kept([1], "auto", *network, CPU) == 0
    monkeypatch.setattr(kept_graphs, "available_bytes", lambda: 2**40)
    assert num_kept([1, 1], "auto", *network, CPU) == 2
