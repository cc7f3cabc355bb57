"""`save_hf_folder`: what transformers loads, complete or not there at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from megatron_stare.errors import UserError
from megatron_stare.weights.save import save_hf_folder
from tests.models import FAMILIES, edit_json, hf_tensors, make_hf_folder


@pytest.fixture
def source(tmp_path) -> Path:
    return make_hf_folder(tmp_path / "source")


def save(source: Path, destination: Path, **options) -> Path:
    options = {"dtype": torch.float32, "max_shard_bytes": 100_000} | options
    save_hf_folder(hf_tensors(source).items(), source, destination, **options)
    return destination


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_the_same_model(tmp_path, family, tied):
    source = make_hf_folder(tmp_path / "source", family, tied=tied)
    saved = save(source, tmp_path / "runs/1/model")
    before, after = (AutoModelForCausalLM.from_pretrained(path) for path in (source, saved))
    tokens = torch.arange(12).reshape(2, 6)
    assert torch.equal(before(tokens).logits, after(tokens).logits)
    assert after.config.tie_word_embeddings == tied
    assert after.dtype == torch.float32


def test_tokenizer_and_generation_config_come_along(source, tmp_path):
    GenerationConfig(temperature=0.6, top_p=0.95, do_sample=True).save_pretrained(source)
    saved = save(source, tmp_path / "saved")
    before, after = (AutoTokenizer.from_pretrained(path) for path in (source, saved))
    messages = [{"role": "user", "content": "2+3=?"}]
    assert after.encode("7 × 8") == before.encode("7 × 8")
    assert after.apply_chat_template(messages, tokenize=False) == before.apply_chat_template(
        messages, tokenize=False
    )
    assert GenerationConfig.from_pretrained(saved).temperature == 0.6


def test_shards_stay_under_their_limit_and_are_indexed(source, tmp_path):
    saved = save(source, tmp_path / "saved", max_shard_bytes=60_000)
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    files = sorted(saved.glob("*.safetensors"))
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 3
    assert {path.name for path in files} == set(index["weight_map"].values())
    tensors = hf_tensors(saved)
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    header_bytes = 4096
    assert all(path.stat().st_size < 60_000 + header_bytes for path in files)


def test_a_small_model_is_one_file(source, tmp_path):
    saved = save(source, tmp_path / "saved", max_shard_bytes=10**9)
    assert [path.name for path in saved.glob("*.safetensors*")] == ["model.safetensors"]


def test_dtype_of_weights_and_config(source, tmp_path):
    edit_json(source / "config.json", dtype=None, torch_dtype="float16")
    saved = save(source, tmp_path / "saved", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in hf_tensors(saved).values()} == {torch.bfloat16}
    config = json.loads((saved / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "torch_dtype" not in config
    assert AutoModelForCausalLM.from_pretrained(saved).dtype == torch.bfloat16


def test_tensors_that_share_storage_can_be_saved(source, tmp_path):
    flat = torch.arange(1_000_000.0)
    views, start = {}, 0
    for name, tensor in hf_tensors(source).items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel() // 2
    save_hf_folder(views.items(), source, tmp_path / "saved", dtype=torch.float32)
    saved = hf_tensors(tmp_path / "saved")
    assert all(torch.equal(saved[name], view) for name, view in views.items())


def test_an_existing_folder_is_refused_unless_it_is_to_be_replaced(source, tmp_path):
    saved = save(source, tmp_path / "saved")
    (saved / "old").touch()
    with pytest.raises(UserError, match=r"saved: exists; expected a path to create"):
        save(source, saved)
    assert (saved / "old").exists()
    save(source, saved, overwrite=True)
    assert not (saved / "old").exists()
    assert sorted(os.listdir(tmp_path)) == ["saved", "source"]


def test_a_failure_leaves_the_previous_folder_and_nothing_else(source, tmp_path):
    def interrupted() -> Iterator[tuple[str, Tensor]]:
        yield from list(hf_tensors(source).items())[:20]
        raise KeyboardInterrupt

    saved = save(source, tmp_path / "saved")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        save_hf_folder(
            interrupted(), source, saved, dtype=torch.float32, overwrite=True, max_shard_bytes=9999
        )
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["saved", "source"]


def test_leftovers_of_a_killed_save_do_not_matter(source, tmp_path):
    for name in (".saved.partial", ".saved.previous"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "junk").touch()
    saved = save(source, tmp_path / "saved")
    assert not (saved / "junk").exists()
    assert sorted(os.listdir(tmp_path)) == ["saved", "source"]


@pytest.mark.parametrize("change", ["missing", "twice", "unknown"])
def test_tensors_of_another_network_are_refused(source, tmp_path, change):
    tensors = list(hf_tensors(source).items())
    changed = {
        "missing": tensors[1:],
        "twice": [*tensors, tensors[0]],
        "unknown": [*tensors, ("extra", torch.ones(1))],
    }[change]
    with pytest.raises(ValueError, match="expected"):
        save_hf_folder(changed, source, tmp_path / "saved", dtype=torch.float32)
    assert not (tmp_path / "saved").exists()


def test_ranks_that_do_not_write_only_take_part(source, tmp_path):
    remaining = iter(hf_tensors(source).items())
    save_hf_folder(remaining, source, tmp_path / "saved", dtype=torch.float32, write=False)
    assert next(remaining, None) is None
    assert not (tmp_path / "saved").exists()
