"""Converted checkpoints in Megatron-Core's own hands, in real gloo worlds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_stare.config.policy import ModelConfig, ParallelConfig
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
    "tp8 sp": ParallelConfig(tensor=8, sequence=True),
    "pp2 vpp2": ParallelConfig(pipeline=2, virtual_pipeline=2),
    "pp2 cp2 ep2": ParallelConfig(pipeline=2, context=2, expert=2),
}
QUICK = ("one process", "pp2 cp2 ep2")
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


def loads_and_saves(
    rank: int, folders: list[Path], parallel: ParallelConfig, out: Path | None
) -> None:
    """Megatron loads what was converted, parameter by parameter as Hugging Face has it."""
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
        exported = export_hf_tensors(
            named_parameters(chunks),
            read_hf_config(folder),
            tp_group=groups.tp,
            pp_group=groups.pp,
            ep_group=groups.ep,
        )
        expected = hf_tensors(folder)
        names = []
        for name, tensor in exported:
            assert torch.equal(tensor, expected[name].to(tensor.dtype)), (folder.name, name)
            names.append(name)
        assert sorted(names) == sorted(expected)
        if out is not None:
            save(chunks, out / folder.name, rank)


def save(chunks, folder: Path, rank: int) -> None:
    """By `dist_checkpointing.save`, with torch's file writer: Megatron's own wants psutil."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies import torch as strategies

    class PlainWriter(strategies.TorchDistSaveShardedStrategy):
        def save(self, sharded_state_dict, checkpoint_dir):
            state, _, _ = strategies._replace_state_dict_keys_with_sharded_keys(
                sharded_state_dict, True
            )
            torch.distributed.checkpoint.save(
                strategies.mcore_to_pyt_state_dict(state),
                storage_writer=strategies.FileSystemWriter(checkpoint_dir),
                planner=strategies.MCoreSavePlanner(
                    dedup_replicated_tensors=False,
                    flatten_state_dict=False,
                    flatten_sharded_tensors=False,
                ),
            )

    if rank == 0:
        folder.mkdir()
    torch.distributed.barrier()
    model = {number: chunk.sharded_state_dict() for number, chunk in enumerate(chunks)}
    dist_checkpointing.save(model, str(folder), PlainWriter())


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYOUTS],
)
def test_to_megatron_through_any_layout_and_back_changes_no_bit(folders, tmp_path, layout):
    parallel = LAYOUTS[layout]
    here = fit(folders, parallel)
    run_world(parallel.replica, loads_and_saves, here, parallel, tmp_path)
    for folder in here:
        back = tmp_path / f"{folder.name}-hf"
        dtype = stored_dtype(folder)
        run_conversion(MegatronToHf(tmp_path / folder.name, hf=folder, dtype=dtype), back)
        expected, found = hf_tensors(folder), hf_tensors(back)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, expected[name]), (folder.name, name)


def loads_and_saves_with_extra_states(
    rank: int, folders: list[Path], parallel: ParallelConfig, out: Path
) -> None:
    """As with Transformer Engine, whose norms have objects beside them, too."""
    from megatron_stare.policy.norm import RMSNorm
    from tests.policies import have_extra_state

    have_extra_state(RMSNorm)
    loads_and_saves(rank, folders, parallel, out)


def test_a_converted_checkpoint_has_the_keys_that_megatron_writes(folders, tmp_path):
    """Tensors with shape and dtype, and the objects beside them."""
    run_world(1, loads_and_saves_with_extra_states, folders, ParallelConfig(), tmp_path)
    for folder in folders:
        ours, theirs = (index_of(path) for path in (converted(folder), tmp_path / folder.name))
        if stored_dtype(folder) == torch.float16:
            # The policy computes in one of the two others.
            ours = {key: value and (value[0], torch.float32) for key, value in ours.items()}
        assert ours == theirs, folder.name


def index_of(checkpoint: Path) -> dict[str, tuple | None]:
    """Shape and dtype of every tensor; None for what is not a tensor."""
    stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {
        key: (tuple(value.size), value.properties.dtype)
        if isinstance(value, TensorStorageMetadata)
        else None
        for key, value in stored.items()
    }
