"""`load_hf_weights`: the right slices into live parameters, and every fault of a folder refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import load_hf_weights
from megatron_stare.weights.names import model_entries
from tests.models import FAMILIES, edit_json, empty_stage, hf_tensors, make_hf_folder

INDEX = "model.safetensors.index.json"


def load(folder: Path, *, dtype=torch.float32) -> dict[str, Tensor]:
    """The folder's weights as one rank without parallelism holds them."""
    shape = read_hf_config(folder)
    params = empty_stage(shape, dtype=dtype)
    load_hf_weights(params, folder, shape, tp_rank=0, tp_size=1)
    return params


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    return make_hf_folder(tmp_path_factory.mktemp("sharded") / "model", "qwen3")


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tied") / "model"
    return make_hf_folder(folder, "qwen2", tied=True, max_shard_size="1GB")


@pytest.fixture
def broken(sharded, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(sharded, tmp_path / "model"))


def edit_tensors(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def file_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("pp_size", [1, 2])
def test_each_rank_holds_its_shard(tmp_path, family, is_tied, tp_size, pp_size):
    folder = make_hf_folder(tmp_path / "model", family, tied=is_tied)
    shape, tensors = read_hf_config(folder), hf_tensors(folder)
    entries = model_entries(shape)
    for pp_rank in range(pp_size):
        for tp_rank in range(tp_size):
            params = empty_stage(shape, tp_size=tp_size, pp_rank=pp_rank, pp_size=pp_size)
            load_hf_weights(params, folder, shape, tp_rank=tp_rank, tp_size=tp_size)
            for name, param in params.items():
                assert torch.equal(param, entries[name].shard(tensors, tp_rank, tp_size))


def test_one_file_or_many_are_the_same(tmp_path):
    many = load(make_hf_folder(tmp_path / "many", "llama", max_shard_size="30KB"))
    one = load(make_hf_folder(tmp_path / "one", "llama", max_shard_size="1GB"))
    assert (tmp_path / "one/model.safetensors").exists()
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 5
    assert all(torch.equal(one[name], param) for name, param in many.items())


def test_values_are_cast_to_the_parameters(sharded):
    params = load(sharded, dtype=torch.bfloat16)
    expected = hf_tensors(sharded)["model.norm.weight"].bfloat16()
    assert torch.equal(params["decoder.final_layernorm.weight"], expected)


def test_parameters_that_need_gradients_are_filled_in_place(sharded):
    shape = read_hf_config(sharded)
    params = {name: torch.nn.Parameter(tensor) for name, tensor in empty_stage(shape).items()}
    load_hf_weights(params, sharded, shape, tp_rank=0, tp_size=1)
    assert all(param.isfinite().all() and param.grad_fn is None for param in params.values())


def test_rotary_buffers_of_old_checkpoints_are_ignored(broken):
    file = file_of(broken, "model.norm.weight")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(file, lambda tensors: tensors.update({name: torch.ones(4)}))
    index = json.loads((broken / INDEX).read_text())
    index["weight_map"][name] = file.name
    (broken / INDEX).write_text(json.dumps(index))
    load(broken)


# What is wrong with a folder: each refused with the file or tensor, found and expected.


def test_missing_weights(broken):
    for file in broken.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(UserError, match=r"no weights; expected model.safetensors or"):
        load(broken)


def test_missing_shard(broken):
    file = file_of(broken, "model.norm.weight")
    file.unlink()
    with pytest.raises(UserError, match=f"{file}: no such file, but {INDEX} lists it"):
        load(broken)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_shard(broken, keep):
    file = file_of(broken, "model.norm.weight")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{file}: not a whole safetensors file"):
        load(broken)


@pytest.mark.parametrize("name", ["config.json", INDEX, "a shard"])
def test_a_pipe_in_the_place_of_a_file(broken, name):
    path = file_of(broken, "model.norm.weight") if name == "a shard" else broken / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=rf"{path.name}: a pipe or a device"):
        load(broken)


def test_shard_with_a_damaged_header(broken):
    file = file_of(broken, "model.norm.weight")
    content = bytearray(file.read_bytes())
    content[10:40] = b"\xff" * 30
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file}: not a whole safetensors file"):
        load(broken)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', "[" * 100_000])
def test_malformed_index(broken, text):
    (broken / INDEX).write_text(text)
    with pytest.raises(UserError, match=f"{INDEX}: .*expected a weight_map"):
        load(broken)


def test_index_that_lists_a_tensor_its_shard_lacks(broken):
    file = file_of(broken, "model.norm.weight")
    edit_tensors(file, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(UserError, match=r"disagrees: only the index has model\.norm\.weight"):
        load(broken)


def test_shard_with_a_tensor_that_the_index_does_not_list(broken):
    file = file_of(broken, "model.norm.weight")
    edit_tensors(file, lambda tensors: tensors.update(surplus=torch.ones(1)))
    with pytest.raises(UserError, match=r"disagrees: only the file has surplus"):
        load(broken)


def test_missing_tensor(tied, tmp_path):
    folder = Path(shutil.copytree(tied, tmp_path / "model"))
    name = "model.layers.2.self_attn.k_proj.bias"
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"config.json expects {name}, missing in the weights"):
        load(folder)


def test_wrong_shape(broken):
    file = file_of(broken, "model.norm.weight")
    edit_tensors(file, lambda tensors: tensors.update({"model.norm.weight": torch.ones(47)}))
    message = rf"{file}: model\.norm\.weight has shape \[47\], expected \[48\] by config\.json"
    with pytest.raises(UserError, match=message):
        load(broken)


def test_quantized_tensor(broken):
    file = file_of(broken, "model.norm.weight")
    int8 = torch.ones(48, dtype=torch.int8)
    edit_tensors(file, lambda tensors: tensors.update({"model.norm.weight": int8}))
    with pytest.raises(UserError, match=r"model\.norm\.weight has dtype I8; expected one of F64"):
        load(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 4}, r"q_proj\.weight has shape \[64, 48\], expected \[32, 48\]"),
        ({"num_key_value_heads": 2}, r"k_proj\.weight has shape \[32, 48\], expected \[16, 48\]"),
        ({"vocab_size": 260}, r"embed_tokens\.weight has shape \[259, 48\], expected \[260, 48\]"),
        ({"num_hidden_layers": 3}, r"network has no model\.layers\.3.* and 8 more"),
        ({"num_hidden_layers": 5}, r"config\.json expects model\.layers\.4.*missing"),
        ({"attention_bias": True}, r"expects model\.layers\.0\.self_attn\.k_proj\.bias, .*missing"),
        ({"model_type": "llama"}, r"network has no model\.layers\.0\.self_attn\.k_norm\.weight"),
        (
            {"tie_word_embeddings": True},
            r"lm_head\.weight differs from model\.embed_tokens\.weight",
        ),
    ],
)
def test_config_of_another_network(broken, change, message):
    edit_json(broken / "config.json", **change)
    with pytest.raises(UserError, match=message):
        load(broken)


def test_untied_config_of_tied_weights(tied, tmp_path):
    folder = Path(shutil.copytree(tied, tmp_path / "model"))
    edit_json(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"config\.json expects lm_head\.weight, missing"):
        load(folder)


def test_tied_weights_saved_with_their_head_are_fine_when_equal(tied, tmp_path):
    folder = Path(shutil.copytree(tied, tmp_path / "model"))
    embedding = hf_tensors(folder)["model.embed_tokens.weight"]
    edit_tensors(
        folder / "model.safetensors", lambda t: t.update({"lm_head.weight": embedding.clone()})
    )
    assert torch.equal(load(folder)["embedding.word_embeddings.weight"], embedding)
