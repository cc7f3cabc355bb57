"""Conversion: nothing wrong is converted, nothing complete is lost, and a stopped one goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_stare.errors import UserError
from megatron_stare.weights.compare import compare_tensors, open_model
from megatron_stare.weights.conversion import run_conversion
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf
from megatron_stare.weights.parts import JOURNAL_FILE, Budget
from tests.disks import full_disk
from tests.models import NETWORKS, edit_json, hf_tensors, make_hf_folder

SMALL = {"part_bytes": 20_000, "threads": 2}
"""Many parts."""


@pytest.fixture
def hf(tmp_path) -> Path:
    return make_hf_folder(tmp_path / "hf", "qwen2")


@pytest.fixture
def checkpoint(hf, tmp_path) -> Path:
    return to_megatron(hf, tmp_path / "checkpoint")


def to_megatron(source: Path, destination: Path, dtype=None, **options) -> Path:
    run_conversion(HfToMegatron(source, dtype=dtype), destination, **SMALL | options)
    return destination


def to_hf(source: Path, destination: Path, *, max_shard_bytes=100_000, **options) -> Path:
    conversion = MegatronToHf(source, max_shard_bytes=max_shard_bytes)
    run_conversion(conversion, destination, **SMALL | options)
    return destination


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
    for destination in (hf, tmp_path):
        with pytest.raises(UserError, match="holds the source"):
            to_megatron(hf, destination, force=True)


def test_a_full_disk_is_noticed_before(hf, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs 0\.0 GB, the disk has 0\.0 GB"):
        to_megatron(hf, tmp_path / "out")


class Stop(Exception):
    """In place of whatever stops a conversion."""


def stop_after(parameters: int):
    seen = 0

    def on_done(count: int) -> None:
        nonlocal seen
        seen += count
        if seen >= parameters:
            raise Stop

    return on_done


@pytest.mark.parametrize("direction", ["to megatron", "to hf"])
def test_a_stopped_conversion_goes_on(hf, checkpoint, tmp_path, direction):
    source, convert = (hf, to_megatron) if direction == "to megatron" else (checkpoint, to_hf)
    convert(source, tmp_path / "whole")
    with pytest.raises(Stop):
        convert(source, tmp_path / "out", threads=1, on_done=stop_after(15))
    assert not (tmp_path / "out").exists()
    done: list[int] = []
    convert(source, tmp_path / "out", on_done=done.append)
    assert done[0] >= 15
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_disk_that_fills_up_is_one_error_and_the_conversion_goes_on(
    hf, checkpoint, tmp_path, direction
):
    def conversion():
        return HfToMegatron(hf) if direction == "there" else MegatronToHf(checkpoint)

    destination = tmp_path / "made"
    said = r"DST=.*\.made\.partial: cannot be written \(File too large\)"
    with full_disk(20_000), pytest.raises(UserError, match=said):
        run_conversion(conversion(), destination, part_bytes=1 << 14)
    assert not destination.exists()
    run_conversion(conversion(), destination, part_bytes=1 << 14)
    source = hf if direction == "there" else checkpoint
    assert all(d.is_identical for d in compare_tensors(open_model(source), open_model(destination)))


def test_a_line_cut_short_costs_a_part(hf, tmp_path):
    with pytest.raises(Stop):
        to_megatron(hf, tmp_path / "out", threads=1, on_done=stop_after(15))
    journal = tmp_path / ".out.partial" / JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-5])
    to_megatron(hf, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(to_megatron(hf, tmp_path / "whole"))


def test_half_a_conversion_of_other_weights_is_thrown_away(hf, tmp_path):
    with pytest.raises(Stop):
        to_megatron(hf, tmp_path / "out", threads=1, on_done=stop_after(15))
    other = make_hf_folder(tmp_path / "other", "qwen2", seed=1)
    done: list[int] = []
    to_megatron(other, tmp_path / "out", on_done=done.append)
    assert done[0] == 0
    assert contents(tmp_path / "out") == contents(to_megatron(other, tmp_path / "whole"))


def convert_and_die(hf: Path, out: Path, after: int) -> None:
    def die(count: int) -> None:
        nonlocal after
        after -= count
        if after <= 0:
            os._exit(9)

    to_megatron(hf, out, on_done=die)


def test_a_killed_process_leaves_nothing_that_looks_complete(hf, tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=convert_and_die, args=(hf, tmp_path / "out", 10)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (tmp_path / "out").exists()
    to_megatron(hf, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(to_megatron(hf, tmp_path / "whole"))


def test_two_conversions_do_not_share_a_destination(hf, tmp_path):
    def meanwhile(count: int) -> None:
        with pytest.raises(UserError, match="another process is writing it"):
            to_megatron(hf, tmp_path / "out")

    to_megatron(hf, tmp_path / "out", on_done=meanwhile)


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
