"""Conversion: nothing wrong is converted, and nothing complete is lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_stare.errors import UserError
from megatron_stare.weights.compare import compare_tensors, open_model
from megatron_stare.weights.parts import Budget
from tests.models import NETWORKS, edit_json, hf_tensors, make_hf_folder
from tests.unit.weights.conversions import to_hf, to_megatron


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_there_and_back_changes_no_bit(tmp_path, name, dtype):
    source = make_hf_folder(tmp_path / "hf", dtype=dtype, **NETWORKS[name])
    back = to_hf(to_megatron(source, tmp_path / "megatron"), tmp_path / "back")
    expected, found = hf_tensors(source), hf_tensors(back)
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        assert tensor.dtype == expected[key].dtype == dtype
        assert torch.equal(tensor, expected[key]), key
    assert (back / "config.json").read_bytes() == (source / "config.json").read_bytes()


def test_transformers_loads_what_comes_back(hf, checkpoint, tmp_path):
    back = to_hf(checkpoint, tmp_path / "back")
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (hf, back))
    tokens = torch.arange(12).reshape(2, 6)
    assert torch.equal(before(tokens).logits, after(tokens).logits)
    before, after = (AutoTokenizer.from_pretrained(path) for path in (hf, back))
    assert after.encode("7 × 8") == before.encode("7 × 8")
    assert after.chat_template == before.chat_template
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (back / name).read_bytes() == (hf / name).read_bytes()


def test_weights_can_be_cast_on_the_way(hf, tmp_path):
    back = to_hf(to_megatron(hf, tmp_path / "cast", torch.bfloat16), tmp_path / "back")
    for name, tensor in hf_tensors(back).items():
        assert torch.equal(tensor, hf_tensors(hf)[name].bfloat16())
    assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_single_file_needs_no_index(checkpoint, tmp_path):
    back = to_hf(checkpoint, tmp_path / "back", max_shard_bytes=10**9)
    assert (back / "model.safetensors").exists()
    assert not (back / "model.safetensors.index.json").exists()


# What is refused, before anything is written


WRONG_CONFIGS = [
    ({"num_attention_heads": 16}, "q_proj.weight", "[64, 48]", "[128, 48]"),
    ({"num_key_value_heads": 2}, "k_proj.weight", "[32, 48]", "[16, 48]"),
    ({"vocab_size": 257}, "embed_tokens.weight", "[259, 48]", "[257, 48]"),
    ({"intermediate_size": 96}, "gate_proj.weight", "[80, 48]", "[96, 48]"),
    ({"num_hidden_layers": 5}, "layers.4", "missing", ""),
    ({"num_hidden_layers": 3}, "layers.3", "no ", ""),
    ({"model_type": "llama"}, "q_proj.bias", "no ", ""),
    ({"model_type": "qwen3"}, "q_norm.weight", "missing", ""),
    ({"tie_word_embeddings": True}, "lm_head.weight", "differs", "tie_word_embeddings=true"),
]
ids_of_configs = [f"{k}={v}" for change, *_ in WRONG_CONFIGS for k, v in change.items()]


@pytest.mark.parametrize(
    ("change", "tensor", "found", "expected"), WRONG_CONFIGS, ids=ids_of_configs
)
def test_a_wrong_config_is_refused(hf, tmp_path, change, tensor, found, expected):
    edit_json(hf / "config.json", **change)
    with pytest.raises(UserError) as error:
        to_megatron(hf, tmp_path / "out")
    assert all(part in str(error.value) for part in (tensor, found, expected)), error.value
    assert not (tmp_path / "out").exists()


WRONG_OF_CHECKPOINTS = [
    ({"num_attention_heads": 16}, "linear_qkv.weight", "[4, 128, 48]", "[4, 192, 48]"),
    ({"num_key_value_heads": 2}, "linear_qkv.weight", "[4, 128, 48]", "[4, 96, 48]"),
    ({"vocab_size": 255}, "word_embeddings.weight", "[259, 48]", "[255, 48]"),
    ({"vocab_size": 257}, "word_embeddings.weight", "[259, 48]", "[257, 48]"),
    ({"vocab_size": 258}, "word_embeddings.weight", "[259, 48]", "[258, 48]"),
    ({"vocab_size": 260}, "word_embeddings.weight", "[259, 48]", "[260, 48]"),
    ({"intermediate_size": 96}, "linear_fc1.weight", "[4, 160, 48]", "[4, 192, 48]"),
    ({"num_hidden_layers": 3}, "linear_qkv", "[4, ", "[3, "),
    ({"model_type": "llama"}, "linear_qkv.bias", "no ", ""),
    ({"model_type": "qwen3"}, "q_layernorm.weight", "missing", ""),
    ({"tie_word_embeddings": True}, "output_layer.weight", "no ", ""),
]
ids_of_checkpoints = [f"{k}={v}" for change, *_ in WRONG_OF_CHECKPOINTS for k, v in change.items()]


@pytest.mark.parametrize(
    ("change", "tensor", "found", "expected"), WRONG_OF_CHECKPOINTS, ids=ids_of_checkpoints
)
def test_a_wrong_config_of_a_checkpoint_is_refused(
    checkpoint, tmp_path, change, tensor, found, expected
):
    edit_json(checkpoint / "hf/config.json", **change)
    with pytest.raises(UserError) as error:
        to_hf(checkpoint, tmp_path / "out")
    assert all(part in str(error.value) for part in (tensor, found, expected)), error.value


def test_a_tied_config_of_untied_weights_is_refused_and_the_other_way_round(tmp_path):
    tied = make_hf_folder(tmp_path / "tied", "qwen2", tied=True)
    checkpoint = to_megatron(tied, tmp_path / "checkpoint")
    for config, convert in ((tied, to_megatron), (checkpoint / "hf", to_hf)):
        edit_json(config / "config.json", tie_word_embeddings=False)
        source = tied if convert is to_megatron else checkpoint
        with pytest.raises(UserError, match=r"(lm_head|output_layer)\.weight, missing"):
            convert(source, tmp_path / "out")


def test_dtypes_that_megatron_cannot_keep_apart_are_refused(tmp_path):
    hf = make_hf_folder(tmp_path / "hf", "qwen2", max_shard_size="1GB")
    tensors = load_file(hf / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    save_file(tensors | {name: tensors[name].bfloat16()}, hf / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} is bfloat16, expected float32"):
        to_megatron(hf, tmp_path / "out")
    to_megatron(hf, tmp_path / "out", torch.float32)
    name = "model.layers.2.self_attn.k_proj.weight"
    save_file(tensors | {name: tensors[name].bfloat16()}, hf / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} bfloat16.*expected one dtype"):
        to_megatron(hf, tmp_path / "out")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "metadata.json").unlink(), "expected a checkpoint"),
        (lambda folder: (folder / "metadata.json").write_text("{"), "not valid JSON"),
        (
            lambda folder: (folder / "metadata.json").write_text('{"sharded_backend": "zarr"}'),
            "sharded_backend='zarr', expected 'torch_dist'",
        ),
        (lambda folder: (folder / ".metadata").write_bytes(b"\x80\x04"), "damaged"),
        (lambda folder: (folder / ".metadata").unlink(), "damaged"),
        (lambda folder: shutil.rmtree(folder / "hf"), "config.json: no such file"),
        (lambda folder: (folder / "__0_0.distcp").unlink(), "no such file"),
        (lambda folder: os.truncate(folder / "__0_0.distcp", 1000), "cut short at 1000 bytes"),
        (lambda folder: flip_a_byte(folder / "__0_0.distcp"), "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path, damage, message):
    damage(checkpoint)
    with pytest.raises(UserError, match=message):
        to_hf(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What is there already


def test_nothing_is_overwritten_without_force(hf, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious").touch()
    for source, convert in ((hf, to_megatron), (checkpoint, to_hf)):
        with pytest.raises(UserError, match="out: exists"):
            convert(source, tmp_path / "out")
    assert (tmp_path / "out/precious").exists()
    to_hf(checkpoint, tmp_path / "out", force=True)
    assert not (tmp_path / "out/precious").exists()
    assert hf_tensors(tmp_path / "out").keys() == hf_tensors(hf).keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "hf", "out"]


def test_the_source_is_never_the_destination(hf, tmp_path):
    for destination in (hf, tmp_path, hf / "in_it"):
        with pytest.raises(UserError, match="holds the source"):
            to_megatron(hf, destination, force=True)


def test_a_full_disk_is_noticed_before(hf, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs 0\.0 GB, the disk has 0\.0 GB"):
        to_megatron(hf, tmp_path / "out")


# Compared


def test_compare_finds_the_one_tensor_that_differs(hf, checkpoint, tmp_path):
    tensors = {path: load_file(path) for path in sorted(hf.glob("*.safetensors"))}
    name = "model.layers.1.mlp.up_proj.weight"
    (path,) = (path for path, content in tensors.items() if name in content)
    tensors[path][name][3, 5] += 0.25
    save_file(tensors[path], path, metadata={"format": "pt"})
    models = open_model(hf), open_model(checkpoint)
    (found,) = (d for d in compare_tensors(*models) if not d.is_identical)
    assert found.name == name
    assert found.largest == pytest.approx(0.25)
    assert found.scale == pytest.approx(tensors[path][name].abs().max().item())


def test_different_networks_are_not_compared(hf, tmp_path):
    other = make_hf_folder(tmp_path / "other", "qwen2", intermediate_size=96)
    with pytest.raises(UserError, match="different models"):
        list(compare_tensors(open_model(hf), open_model(other)))


def test_budget_never_lends_more_than_it_has():
    budget = Budget(10)
    with budget.hold(6), budget.hold(4):
        pass
    with budget.hold(10):
        pass
