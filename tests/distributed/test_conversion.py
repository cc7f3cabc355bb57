"""Converted checkpoints in Megatron-Core's own hands, in real gloo worlds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron_stare.config import ModelConfig, ParallelConfig
from megatron_stare.weights.conversion import run_conversion
from megatron_stare.weights.export import export_hf_tensors
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf
from tests.models import NETWORKS, hf_tensors, make_hf_folder
from tests.worlds import run_world

LAYOUTS = {
    "one process": ParallelConfig(),
    "tp2 sp pp2": ParallelConfig(tensor=2, pipeline=2, sequence=True),
    "tp4 sp": ParallelConfig(tensor=4, sequence=True),
    "pp2 vpp2": ParallelConfig(pipeline=2, virtual_pipeline=2),
    "pp2 cp2 ep2": ParallelConfig(pipeline=2, context=2, expert=2),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A Hugging Face folder of every network, of one dtype or another, and its conversion."""
    root = tmp_path_factory.mktemp("models")
    hf = [
        make_hf_folder(root / name.replace(" ", "_"), **network, dtype=DTYPES[number % 3])
        for number, (name, network) in enumerate(NETWORKS.items())
    ]
    for folder in hf:
        run_conversion(HfToMegatron(folder), converted(folder))
    return hf


def converted(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-megatron")


def fit(folders: list[Path], parallel: ParallelConfig) -> list[Path]:
    return [folder for folder in folders if parallel.expert == 1 or "moe" in folder.name]


def build(folder: Path, parallel: ParallelConfig, groups):
    from megatron_stare.policy.model import build_model

    dtype = "bfloat16" if stored_dtype(folder) == torch.bfloat16 else "float32"
    config = ModelConfig(path=folder, dtype=dtype)
    return build_model(read_hf_config(folder), config, parallel, groups, seed=1)


def stored_dtype(folder: Path) -> torch.dtype:
    return next(iter(hf_tensors(folder).values())).dtype


def loads_in_megatron(rank: int, folders: list[Path], parallel: ParallelConfig) -> None:
    """Every parameter that Megatron loads is the one that the Hugging Face folder has."""
    from megatron_stare.policy.groups import build_groups
    from megatron_stare.policy.model import named_parameters
    from megatron_stare.policy.model_checkpoint import load_model

    groups = build_groups(parallel)
    for folder in folders:
        chunks = build(folder, parallel, groups)
        for chunk in chunks:
            for parameter in chunk.parameters():
                torch.nn.init.constant_(parameter, torch.nan)
        load_model(chunks, converted(folder))
        expected = hf_tensors(folder)
        exported = export_hf_tensors(
            named_parameters(chunks),
            read_hf_config(folder),
            tp_group=groups.tp,
            pp_group=groups.pp,
            ep_group=groups.ep,
        )
        names = []
        for name, tensor in exported:
            assert torch.equal(tensor, expected[name].to(tensor.dtype)), (folder.name, name)
            names.append(name)
        assert sorted(names) == sorted(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_megatron_loads_a_converted_checkpoint_in_any_layout(folders, layout):
    parallel = LAYOUTS[layout]
    here = fit(folders, parallel)
    run_world(parallel.replica, loads_in_megatron, here, parallel)
