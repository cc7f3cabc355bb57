"""A 32B recipe without its weights: meta tensors and fake groups stand in for 32 ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)

# isort: split
import pytest
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.policy.groups import ParallelGroups, build_groups, destroy_groups
from megatron_stare.policy.model import build_model, named_parameters
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.megatron_keys import place_of
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.rules import check_coverage
from tests.unit.weights.published import QWEN25_32B, write

TP, PP = 8, 4
PARALLEL = ParallelConfig(tensor=TP, pipeline=PP, sequence=True)
QWEN25_32B_PARAMETERS = 32_763_876_352

pytestmark = pytest.mark.slow


@contextmanager
def one_of_many(rank: int) -> Iterator[ParallelGroups]:
    """The groups of a rank of a world whose other ranks do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=TP * PP)
    try:
        yield build_groups(PARALLEL)
        destroy_groups()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def shape(tmp_path_factory) -> ModelShape:
    return read_hf_config(write(tmp_path_factory.mktemp("qwen"), QWEN25_32B))


def stored(chunk) -> Iterator[ShardedTensor]:
    """What `dist_checkpointing` would write of a chunk."""
    state = chunk.sharded_state_dict()
    apply_factories(state)
    return (value for value in nested_values(state) if isinstance(value, ShardedTensor))


@pytest.mark.parametrize("stage", range(PP))
def test_every_parameter_of_qwen25_32b_maps(shape, stage):
    """To tensors of the Hugging Face folder, and to a key of the checkpoint; ranks of a stage
    differ in their part alone, which is cut out here for all of them."""
    entries = model_entries(shape)
    places = {place_of(entry).key: place_of(entry).global_shape for entry in entries.values()}
    with one_of_many(stage * TP) as groups, torch.device("meta"):
        (chunk,) = build_model(shape, ModelConfig(path=Path()), PARALLEL, groups, seed=1)
        parameters: dict[str, Tensor] = {**named_parameters([chunk])}
        keys = {tensor.key: tuple(tensor.global_shape) for tensor in stored(chunk)}
    check_coverage(parameters, entries, TP)
    assert keys.items() <= places.items()
    layers = range(stage * 16, stage * 16 + 16)
    assert {entries[name].layer for name in parameters} == set(layers)
    for name, parameter in parameters.items():
        entry = entries[name]
        sources = {hf: torch.empty(size, device="meta") for hf, size in entry.hf.items()}
        for tp_rank in range(TP):
            assert entry.shard(sources, tp_rank, TP).shape == parameter.shape, name


def test_the_table_of_qwen25_32b_has_all_its_parameters(shape):
    entries = model_entries(shape).values()
    whole = sum(math.prod(size) for entry in entries for size in entry.hf.values())
    assert whole == QWEN25_32B_PARAMETERS
    assert sum(place_of(entry).num_elements for entry in entries) == whole
