"""`export_hf_tensors` on one rank; over process groups: tests/distributed/test_weights.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.export import export_hf_tensors
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import load_hf_weights
from tests.models import empty_stage, hf_tensors, make_hf_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_hf_folder(tmp_path / "model", "qwen2", tied=True)


def loaded(folder: Path) -> tuple[dict[str, Tensor], ModelShape]:
    shape = read_hf_config(folder)
    params = empty_stage(shape)
    load_hf_weights(params, folder, shape, tp_rank=0, tp_size=1)
    return params, shape


def export(params: dict[str, Tensor], shape: ModelShape, **options) -> list[tuple[str, Tensor]]:
    options = {"tp_group": None, "pp_group": None} | options
    return list(export_hf_tensors(params, shape, **options))


def test_every_tensor_once_in_forward_order(folder):
    names = [name for name, _ in export(*loaded(folder))]
    assert names[:3] == [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]
    assert names[-1] == "model.norm.weight"
    assert sorted(names) == sorted(hf_tensors(folder))


@pytest.mark.parametrize("bucket_bytes", [0, 10_000, 1 << 30])
def test_buckets_bound_the_memory_and_change_no_value(folder, bucket_bytes):
    """Norms are handed out as views of their bucket, so their storage shows its size."""
    expected = hf_tensors(folder)
    params, shape = loaded(folder)
    largest = max(param.nbytes for param in params.values())
    for name, tensor in export(params, shape, bucket_bytes=bucket_bytes):
        assert torch.equal(tensor, expected[name])
        assert tensor.untyped_storage().nbytes() <= max(bucket_bytes, largest)


def test_exported_tensors_do_not_change_with_the_parameters(folder):
    params, shape = loaded(folder)
    exported = export(params, shape)
    for param in params.values():
        param.zero_()
    expected = hf_tensors(folder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in exported)


def test_parameters_that_need_gradients_are_exported_without(folder):
    params, shape = loaded(folder)
    trained: dict[str, Tensor] = {name: torch.nn.Parameter(p) for name, p in params.items()}
    assert not any(tensor.requires_grad for _, tensor in export(trained, shape))


def test_a_parameter_that_no_stage_holds_is_an_error(folder):
    shape = read_hf_config(folder)
    first_half = empty_stage(shape, pp_rank=0, pp_size=2)
    with pytest.raises(ValueError, match=r"no rank holds .*decoder\.layers\.2"):
        export(first_half, shape)
