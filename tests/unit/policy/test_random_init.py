"""Random weights are one network, however it is split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.random_init import init_randomly
from megatron_stare.weights.names import model_entries
from tests.unit.policy.shapes import TINY


def initialised(shape: ModelShape, tp_size: int, pp_size: int, seed: int) -> dict[str, Tensor]:
    """Full tensors by Hugging Face name, merged from every rank's own initialisation."""
    entries = model_entries(shape)
    layers = shape.num_layers // pp_size
    full: dict[str, Tensor] = {}
    for stage in range(pp_size):
        local = {
            name: entry
            for name, entry in entries.items()
            if entry.layer // layers == stage and not (entry.is_copy and pp_size == 1)
        }
        ranks = []
        for tp_rank in range(tp_size):
            params = {name: torch.empty(e.shard_shape(tp_size)) for name, e in local.items()}
            init_randomly(params, shape, tp_rank=tp_rank, tp_size=tp_size, seed=seed)
            ranks.append(params)
        for name, entry in local.items():
            merged = entry.merge([params[name] for params in ranks])
            for hf_name, tensor in merged.items():
                assert torch.equal(full.setdefault(hf_name, tensor), tensor), hf_name
    return full


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("tp_size", "pp_size"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_the_same_network_in_every_layout(tp_size, pp_size, tied):
    shape = replace(TINY, tied=tied)
    whole = initialised(shape, 1, 1, seed=3)
    split = initialised(shape, tp_size, pp_size, seed=3)
    assert whole.keys() == split.keys()
    assert all(torch.equal(split[name], tensor) for name, tensor in whole.items())


def test_what_is_drawn():
    tensors = initialised(TINY, 1, 1, seed=3)
    embedding, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    assert embedding.std().item() == pytest.approx(0.02, rel=0.02)
    assert not torch.equal(embedding, head)
    assert not torch.equal(embedding, initialised(TINY, 1, 1, seed=4)["model.embed_tokens.weight"])
    assert all((t == 1).all() for name, t in tensors.items() if "norm" in name)
    assert all((t == 0).all() for name, t in tensors.items() if name.endswith("bias"))
