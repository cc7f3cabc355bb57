"""The name tables cover every tensor, and sharding followed by merging changes no bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.fused_experts import named_as_in_files
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import TABLES, model_entries
from megatron_stare.weights.rules import check_coverage, global_names
from tests.models import FAMILIES, empty_stage, make_model, tiny_config
from tests.unit.weights.published import QWEN25_32B, write

MODELS = [
    *((family, {"tied": tied}) for family in FAMILIES for tied in (False, True)),
    ("qwen3", {"attention_bias": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 8}),
    ("qwen2", {"num_key_value_heads": 2}),
    ("qwen3", {"num_key_value_heads": 1, "attention_bias": True}),
]
IDS = ["-".join([family, *(f"{k}={v}" for k, v in flags.items())]) for family, flags in MODELS]
every_model = pytest.mark.parametrize(("family", "flags"), MODELS, ids=IDS)


def shape_of(folder: Path, family: str, **flags) -> ModelShape:
    tiny_config(family, **flags).save_pretrained(folder)
    return read_hf_config(folder)


def tensors_of(family: str, **flags) -> dict[str, Tensor]:
    """A transformers model's tensors as its folder would hold them: a tied head once."""
    tensors = named_as_in_files(make_model(family, **flags).state_dict())
    if flags.get("tied"):
        del tensors["lm_head.weight"]
    return tensors


def test_every_family_has_a_table():
    assert set(TABLES) == set(FAMILIES)


@every_model
def test_table_is_exactly_the_tensors_of_transformers(tmp_path, family, flags):
    entries = model_entries(shape_of(tmp_path, family, **flags)).values()
    expected = {name: tuple(tensor.shape) for name, tensor in tensors_of(family, **flags).items()}
    assert {name: size for entry in entries for name, size in entry.hf.items()} == expected


@every_model
def test_each_tensor_is_exported_by_one_rule(tmp_path, family, flags):
    entries = model_entries(shape_of(tmp_path, family, **flags)).values()
    exported = [name for entry in entries if not entry.is_copy for name in entry.hf]
    assert len(exported) == len(set(exported))
    assert {n for e in entries if e.is_copy for n in e.hf} <= set(exported)


@every_model
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_shards_merge_to_the_same_bits(tmp_path, family, flags, tp_size):
    tensors = tensors_of(family, **flags)
    merged: dict[str, Tensor] = {}
    for entry in model_entries(shape_of(tmp_path, family, **flags)).values():
        shards = [entry.shard(tensors, rank, tp_size) for rank in range(tp_size)]
        assert {tuple(shard.shape) for shard in shards} == {entry.shard_shape(tp_size)}
        merged |= entry.merge(shards)
    assert merged.keys() == tensors.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in tensors.items())
    assert all(tensor.is_contiguous() for tensor in merged.values())


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_qkv_is_interleaved_by_kv_group(tmp_path, kind):
    """Megatron's order, spelled out: for each group its query heads, its key, its value."""
    shape = shape_of(tmp_path, "qwen2")
    tensors = tensors_of("qwen2")
    entry = model_entries(shape)[f"decoder.layers.2.self_attention.linear_qkv.{kind}"]
    q, k, v = (tensors[f"model.layers.2.self_attn.{x}_proj.{kind}"] for x in "qkv")
    d, heads_per_group = shape.head_dim, shape.num_heads // shape.num_kv_heads
    for rank in range(2):
        rows = []
        for group in (2 * rank, 2 * rank + 1):
            for head in range(group * heads_per_group, (group + 1) * heads_per_group):
                rows.append(q[head * d : (head + 1) * d])
            rows += [k[group * d : (group + 1) * d], v[group * d : (group + 1) * d]]
        assert torch.equal(entry.shard(tensors, rank, 2), torch.cat(rows))


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize(("kv_heads", "tp_size"), [(4, 8), (2, 4), (2, 8), (1, 2), (1, 8)])
def test_ranks_that_share_kv_heads_hold_equal_parts(tmp_path, kv_heads, tp_size, kind):
    """Megatron cuts what one rank would hold, also inside a head, and not group by group."""
    entry = model_entries(shape_of(tmp_path, "qwen2", num_key_value_heads=kv_heads))[
        f"decoder.layers.2.self_attention.linear_qkv.{kind}"
    ]
    tensors = tensors_of("qwen2", num_key_value_heads=kv_heads)
    parts = entry.shard(tensors, 0, 1).chunk(tp_size)
    for rank, part in enumerate(parts):
        assert torch.equal(entry.shard(tensors, rank, tp_size), part)


def test_gate_and_up_are_split_before_they_are_stacked(tmp_path):
    tensors = tensors_of("llama")
    entry = model_entries(shape_of(tmp_path, "llama"))["decoder.layers.1.mlp.linear_fc1.weight"]
    gate, up = (tensors[f"model.layers.1.mlp.{x}_proj.weight"] for x in ("gate", "up"))
    assert torch.equal(entry.shard(tensors, 1, 2), torch.cat([gate[40:], up[40:]]))


def test_vocabulary_is_padded_with_zero_rows(tmp_path):
    tensors = tensors_of("qwen3")
    entry = model_entries(shape_of(tmp_path, "qwen3"))["output_layer.weight"]
    last = entry.shard(tensors, 3, 4)
    assert entry.shard_shape(4) == (65, 48)
    assert torch.equal(last[:64], tensors["lm_head.weight"][195:])
    assert torch.count_nonzero(last[64:]) == 0


def test_vocabulary_smaller_than_the_tensor_group_leaves_ranks_with_padding_only(tmp_path):
    shape = shape_of(tmp_path, "qwen3", vocab_size=3, eos_token_id=0, pad_token_id=0)
    entry = model_entries(shape)["output_layer.weight"]
    head = {"lm_head.weight": torch.ones(3, 48)}
    assert [int(entry.shard(head, rank, 4)[:, 0].sum()) for rank in range(4)] == [1, 1, 1, 0]


@pytest.mark.parametrize("pp_size", [1, 2, 4])
def test_stages_make_up_every_parameter(tmp_path, pp_size):
    shape = shape_of(tmp_path, "qwen2", tied=True)
    entries = model_entries(shape)
    names: set[str] = set()
    for pp_rank in range(pp_size):
        stage = empty_stage(shape, tp_size=2, pp_rank=pp_rank, pp_size=pp_size)
        check_coverage(stage, entries, tp_size=2)
        assert not names & stage.keys()
        names |= stage.keys()
    assert names == entries.keys() - ({"output_layer.weight"} if pp_size == 1 else set())


def test_a_chunk_counts_its_layers_from_its_first():
    names = ["embedding.word_embeddings.weight", "decoder.layers.0.x", "decoder.layers.10.y"]
    assert list(global_names(dict.fromkeys(names), layer_offset=6)) == [
        "embedding.word_embeddings.weight",
        "decoder.layers.6.x",
        "decoder.layers.16.y",
    ]


def test_a_rank_counts_its_experts_from_its_first():
    names = [
        "decoder.layers.1.mlp.experts.local_experts.0.linear_fc1.weight",
        "decoder.layers.1.mlp.router.weight",
    ]
    assert list(global_names(dict.fromkeys(names), layer_offset=4, expert_offset=10)) == [
        "decoder.layers.5.mlp.experts.local_experts.10.linear_fc1.weight",
        "decoder.layers.5.mlp.router.weight",
    ]


def test_a_rank_holds_its_experts_whole(tmp_path):
    shape = shape_of(tmp_path, "qwen3_moe")
    entries, stage = model_entries(shape), empty_stage(shape)
    held = {name: p for name, p in stage.items() if entries[name].expert in (None, 4, 5)}
    check_coverage(held, entries, 1)
    half = "decoder.layers.1.mlp.experts.local_experts.5.linear_fc2.weight"
    with pytest.raises(ValueError, match=rf"the model lacks the parameters \['{half}'\]"):
        check_coverage({k: v for k, v in held.items() if k != half}, entries, 1)


def test_a_model_that_is_not_the_tables_is_refused(tmp_path):
    shape = shape_of(tmp_path, "qwen3")
    entries, stage = model_entries(shape), empty_stage(shape)
    qkv = "decoder.layers.1.self_attention.linear_qkv.weight"
    with pytest.raises(ValueError, match=r"no rule .* covers .*'extra.weight'"):
        check_coverage(stage | {"extra.weight": torch.zeros(1)}, entries, 1)
    with pytest.raises(ValueError, match=rf"the model lacks the parameters \['{qkv}'\]"):
        check_coverage({k: v for k, v in stage.items() if k != qkv}, entries, 1)
    with pytest.raises(ValueError, match=r"has shape \[3\], expected \[128, 48\]"):
        check_coverage(stage | {qkv: torch.zeros(3)}, entries, 1)


def test_32b_on_tensor_8(tmp_path):
    """Every parameter of a rank's share, counted: they add up to the model's 32.8 billion."""
    entries = model_entries(read_hf_config(write(tmp_path, QWEN25_32B)))
    layer = {
        name.removeprefix("decoder.layers.63."): entry.shard_shape(8)
        for name, entry in entries.items()
        if name.startswith("decoder.layers.63.")
    }
    assert layer == {
        "self_attention.linear_qkv.layer_norm_weight": (5120,),
        "self_attention.linear_qkv.weight": (896, 5120),
        "self_attention.linear_qkv.bias": (896,),
        "self_attention.linear_proj.weight": (5120, 640),
        "mlp.linear_fc1.layer_norm_weight": (5120,),
        "mlp.linear_fc1.weight": (6912, 5120),
        "mlp.linear_fc2.weight": (5120, 3456),
    }
    total = sum(torch.Size(size).numel() for e in entries.values() for size in e.hf.values())
    assert total == 32_763_876_352
