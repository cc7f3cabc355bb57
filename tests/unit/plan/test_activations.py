"""What is planned to be kept for the backward pass, against what autograd really saves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.activations import (
    RankSizes,
    backward_work_bytes,
    head_kept_bytes,
    head_work_bytes,
    layer_bytes,
)
from megatron_stare.policy.kept_graphs import graphs_fit
from megatron_stare.weights.hf_config import read_hf_config
from tests.unit.plan.measured import saved_bytes

NETWORK = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
}
EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
}
LENGTHS = [256, 256]
LAYOUTS = {
    "one rank": {},
    "TP SP": {"tensor": 2, "sequence": True},
    "TP without SP": {"tensor": 2},
    "CP": {"context": 2},
    "TP SP CP": {"tensor": 2, "context": 2, "sequence": True},
    "PP": {"pipeline": 2},
    "TP, a KV head each": {"tensor": 4},
    "TP SP, KV heads shared": {"tensor": 8, "sequence": True},
    "TP SP CP, KV heads shared": {"tensor": 8, "context": 2, "sequence": True},
}


def shape_of(folder: Path, **network) -> ModelShape:
    (folder / "config.json").write_text(json.dumps(NETWORK | network))
    return read_hf_config(folder)


def planned_bytes(
    shape: ModelShape, model: ModelConfig, parallel: ParallelConfig, stage: int
) -> int:
    sizes = RankSizes.of(
        shape,
        parallel,
        num_tokens=sum(LENGTHS),
        element_bytes=4 if model.dtype == "float32" else 2,
    )
    layer = layer_bytes(
        shape, sizes, recompute=model.recompute, kind="torch", context=parallel.context
    )
    layers = shape.num_layers // parallel.pipeline
    is_last = stage == parallel.pipeline - 1
    return layers * layer + (head_kept_bytes(sizes) if is_last else 0)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_forward_pass_keeps_what_is_planned(layout, recompute, tmp_path):
    shape = shape_of(tmp_path, model_type="qwen3")
    model = ModelConfig(path=tmp_path, dtype="bfloat16", recompute=recompute)
    parallel = ParallelConfig(**LAYOUTS[layout])
    for stage in range(parallel.pipeline):
        saved = saved_bytes(shape, model, parallel, LENGTHS, stage=stage)
        assert planned_bytes(shape, model, parallel, stage) == pytest.approx(saved, rel=0.05)


@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize(
    ("network", "dtype"),
    [
        ({"model_type": "qwen2"}, "float32"),
        ({"model_type": "qwen2", "num_key_value_heads": 1}, "bfloat16"),
        (EXPERTS, "bfloat16"),
    ],
    ids=["qwen2", "qwen2 with one KV head", "qwen3_moe"],
)
def test_other_networks_and_types(network, dtype, recompute, tmp_path):
    """Experts with equal shares of the tokens, as planned, to what the router makes of them."""
    shape = shape_of(tmp_path, **network)
    model = ModelConfig(path=tmp_path, dtype=dtype, recompute=recompute)
    saved = saved_bytes(shape, model, ParallelConfig(), LENGTHS)
    assert planned_bytes(shape, model, ParallelConfig(), 0) == pytest.approx(saved, rel=0.05)


def test_transformer_engine_keeps_less_than_torch_and_recompute_less_still(tmp_path):
    shape = shape_of(tmp_path, model_type="qwen3")
    sizes = RankSizes.of(shape, ParallelConfig(), num_tokens=512, element_bytes=2)

    def kept(recompute: str, kind) -> int:
        return layer_bytes(shape, sizes, recompute=recompute, kind=kind)

    assert kept("none", "transformer_engine") < kept("none", "torch")
    by_recompute = [kept(name, "transformer_engine") for name in ("none", "selective", "full")]
    assert by_recompute == sorted(by_recompute, reverse=True)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_graphs_fit_where_there_is_room_for_what_autograd_keeps(recompute, tmp_path):
    shape = shape_of(tmp_path, model_type="qwen3")
    model, parallel = ModelConfig(path=tmp_path, recompute=recompute), ParallelConfig()
    saved = saved_bytes(shape, model, parallel, LENGTHS)
    sizes = RankSizes.of(shape, parallel, num_tokens=sum(LENGTHS), element_bytes=4)
    work = max(
        backward_work_bytes(shape, parallel, sizes, recompute=recompute, kind="torch"),
        head_work_bytes(shape, parallel, sizes),
    )
    tokens = [sum(LENGTHS)] * 3
    for graphs, fit in ((2.9, False), (3.1, True)):
        room = graphs * saved + work
        assert graphs_fit(tokens, room, shape, model, parallel, "torch") == fit
