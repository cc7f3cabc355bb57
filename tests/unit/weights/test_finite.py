"""Weights that are not finite are named, by tensor and file, by everything that reads them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_stare.engines.embedded import EmbeddedEngine
from megatron_stare.errors import UserError
from megatron_stare.weights.compare import compare_tensors, open_model
from megatron_stare.weights.conversion import run_conversion
from megatron_stare.weights.finite import cast, check_finite, first_spoiled, is_finite
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.load import load_hf_weights
from megatron_stare.weights.megatron_to_hf import MegatronToHf
from tests.models import empty_stage, make_hf_folder, make_tokenizer

LARGEST = torch.finfo(torch.float32).max
BAD = [math.nan, math.inf, -math.inf]
NAMES = (
    "model.embed_tokens.weight",
    "model.layers.3.self_attn.k_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("position", [0, 500, 999])
def test_one_value_among_a_thousand_is_found(dtype, bad, position):
    tensor = torch.ones(1000, dtype=dtype)
    assert is_finite(tensor)
    tensor[position] = bad
    assert not is_finite(tensor)
    assert first_spoiled([("a", torch.ones(3)), ("b", tensor)]) == "b"


def test_large_values_whose_sum_overflows_are_finite():
    tensor = torch.full((1000,), LARGEST)
    assert is_finite(tensor)


@pytest.mark.parametrize("large", [1e16, -1e16, 1e34])
def test_weights_far_too_large_are_spoiled_finite_as_they_are(large):
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert first_spoiled([("a", 1e9 * tensor), ("b", tensor)]) is None
    assert first_spoiled([("a", tensor), ("b", large * tensor)]) == "b"
    assert first_spoiled([("a", tensor), ("b", torch.tensor([large, -large]))]) == "b"
    assert first_spoiled([("many", torch.full((10**5,), 1e14))]) is None


def test_the_message_counts_and_has_the_first():
    tensor = torch.ones(2, 3)
    tensor[1, 1:] = torch.tensor([-math.inf, math.nan])
    with pytest.raises(UserError, match=r"^a file: w has 2 of 6 values .* -inf at \[1, 1\]"):
        check_finite(tensor, "a file: w")


def test_a_value_too_large_for_a_dtype_is_refused_and_not_made_infinite():
    assert cast(torch.tensor([6e4]), torch.float16, "w").item() == pytest.approx(6e4, rel=1e-3)
    with pytest.raises(UserError, match=r"w has values up to 7e\+04; expected at most 6\.55e\+04"):
        cast(torch.tensor([-7e4]), torch.float16, "w")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_hf_folder(tmp_path_factory.mktemp("good") / "model")


def spoil(folder: Path, name: str, value: float) -> str:
    """Put a value into the middle of a tensor; returns the file it is in."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[name].view(-1)[tensors[name].numel() // 2] = value
            save_file(tensors, path, metadata={"format": "pt"})
            return path.name
    raise KeyError(name)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    shape = read_hf_config(folder)
    load_hf_weights(empty_stage(shape, dtype=dtype), folder, shape, tp_rank=0, tp_size=1)


def generate(folder: Path) -> None:
    options = {"device": torch.device("cpu"), "dtype": torch.float32, "max_batch_sequences": 4}
    engine = EmbeddedEngine(folder, make_tokenizer(), **options, stop_ids=[0])
    engine.load_weights(folder, version=0)


def convert(folder: Path) -> None:
    run_conversion(HfToMegatron(folder), folder.parent / "megatron")


def compare(folder: Path) -> None:
    list(compare_tensors(open_model(folder), open_model(folder)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read", [load, generate, convert, compare])
def test_every_reader_of_a_folder_names_tensor_and_file(tmp_path, name, read):
    folder = make_hf_folder(tmp_path / "model")
    file = spoil(folder, name, math.nan)
    with pytest.raises(UserError, match=rf"{file}: {name} has 1 of \d+ values that are not finite"):
        read(folder)


def test_weights_too_large_for_the_policy_are_refused(tmp_path):
    folder = make_hf_folder(tmp_path / "model", dtype=torch.float64)
    spoil(folder, "model.norm.weight", 1e300)
    with pytest.raises(UserError, match=r"model\.norm\.weight has values up to 1e\+300"):
        load(folder)


def test_every_reader_of_a_checkpoint_names_tensor_and_file(folder, tmp_path):
    checkpoint = tmp_path / "megatron"
    run_conversion(HfToMegatron(folder), checkpoint)
    name = "decoder.final_layernorm.weight"
    [parameter] = [p for p in MegatronToHf(checkpoint).parameters if p.place.key == name]
    stored = MegatronToHf(checkpoint).checkpoint.read(parameter.place)
    needle = stored.numpy().tobytes()
    [file] = [path for path in checkpoint.glob("*.distcp") if needle in path.read_bytes()]
    content = file.read_bytes()
    stored = stored.clone()
    stored[5] = math.inf
    file.write_bytes(content.replace(needle, stored.numpy().tobytes()))
    said = rf"{file.name}: {name}, from \[0\] on, has 1 of 48 values .* inf at \[5\]"
    with pytest.raises(UserError, match=said):
        run_conversion(MegatronToHf(checkpoint), tmp_path / "back")
    with pytest.raises(UserError, match=said):
        list(compare_tensors(open_model(folder), open_model(checkpoint)))
