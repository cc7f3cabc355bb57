"""Weights in and out of real gloo worlds: every layout gives back the folder, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_stare.config.policy import ModelConfig, ParallelConfig
from megatron_stare.model_shape import ModelShape
from megatron_stare.weights.export import export_hf_tensors
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import load_hf_weights
from megatron_stare.weights.save import save_hf_folder
from tests.models import FAMILIES, empty_stage, hf_tensors, make_hf_folder
from tests.worlds import recorded_collectives, run_world

LAYOUTS = [(2, 2), (4, 1), (1, 4)]
"""Tensor and pipeline parallel sizes."""
SMALL_BUCKET = 20_000
"""Bytes: many buckets, and an embedding that is larger than one."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Every family, tied and untied, and one whose KV head tensor-parallel ranks share."""
    root = tmp_path_factory.mktemp("models")
    return [
        *(
            make_hf_folder(root / f"{family}-{tied}", family, tied=tied)
            for family in FAMILIES
            for tied in (False, True)
        ),
        make_hf_folder(root / "one-kv-head", "qwen2", num_key_value_heads=1),
    ]


def new_groups(tp_size: int, pp_size: int) -> tuple[ProcessGroup, ProcessGroup]:
    """This rank's tensor and pipeline group; tensor parallelism innermost."""
    grid = torch.arange(tp_size * pp_size).reshape(pp_size, tp_size)
    tp, _ = dist.new_subgroups_by_enumeration(grid.tolist())
    pp, _ = dist.new_subgroups_by_enumeration(grid.T.tolist())
    assert isinstance(tp, ProcessGroup)
    assert isinstance(pp, ProcessGroup)
    return tp, pp


def assert_same_tensors(exported: list[tuple[str, Tensor]], expected: dict[str, Tensor]) -> None:
    assert sorted(name for name, _ in exported) == sorted(expected)
    for name, tensor in exported:
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


def round_trip(rank: int, folders: list[Path], tp_size: int, pp_size: int) -> list[str]:
    tp, pp = new_groups(tp_size, pp_size)
    order: list[str] = []
    for folder in folders:
        shape = read_hf_config(folder)
        params = empty_stage(shape, tp_size=tp_size, pp_rank=pp.rank(), pp_size=pp_size)
        load_hf_weights(params, folder, shape, tp_rank=tp.rank(), tp_size=tp_size)
        for dtype in (torch.float32, torch.bfloat16):
            exported = export_hf_tensors(
                {name: param.to(dtype) for name, param in params.items()},
                shape,
                tp_group=tp,
                pp_group=pp,
                bucket_bytes=SMALL_BUCKET,
            )
            with recorded_collectives() as calls:
                exported = list(exported)
            # A gather into a list would take NCCL a copy as large as all of it.
            assert {call for call, _ in calls} <= {"broadcast", "all_gather_single"}
            expected = {name: tensor.to(dtype) for name, tensor in hf_tensors(folder).items()}
            assert_same_tensors(exported, expected)
            order += [name for name, _ in exported]
    return order


@pytest.mark.parametrize(("tp_size", "pp_size"), LAYOUTS)
def test_every_rank_gets_the_folders_tensors_in_one_order(folders, tp_size, pp_size):
    orders = run_world(tp_size * pp_size, round_trip, folders, tp_size, pp_size)
    assert all(order == orders[0] for order in orders)


def lacks_a_layer(rank: int, folder: Path) -> str:
    shape = read_hf_config(folder)
    stage: dict[str, Tensor] = empty_stage(shape, pp_rank=0, pp_size=4)
    try:
        list(export_hf_tensors(stage, shape, tp_group=None, pp_group=dist.group.WORLD))
    except ValueError as error:
        return str(error)
    return ""


def test_stages_that_do_not_make_a_model_are_an_error_on_every_rank(folders):
    for message in run_world(2, lacks_a_layer, folders[0]):
        assert "no rank holds the parameters" in message
        assert "'output_layer.weight'" in message


def through_megatron(rank: int, folders: list[Path], out: Path, parallel: ParallelConfig) -> None:
    from megatron_stare.policy.groups import build_groups

    groups = build_groups(parallel)
    for folder in folders:
        shape = read_hf_config(folder)
        params = megatron_parameters(shape, folder, parallel, groups)
        load_hf_weights(params, folder, shape, tp_rank=groups.tp.rank(), tp_size=groups.tp.size())
        exported = export_hf_tensors(
            params, shape, tp_group=groups.tp, pp_group=groups.pp, ep_group=groups.ep
        )
        save_hf_folder(exported, folder, out / folder.name, dtype=torch.float32, write=rank == 0)


def megatron_parameters(
    shape: ModelShape, folder: Path, parallel: ParallelConfig, groups
) -> dict[str, torch.nn.Parameter]:
    from megatron_stare.policy.model import build_model, named_parameters

    return named_parameters(build_model(shape, ModelConfig(path=folder), parallel, groups, seed=1))


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(),
        ParallelConfig(tensor=2, pipeline=2, sequence=True),
        ParallelConfig(pipeline=2, virtual_pipeline=2),
        ParallelConfig(pipeline=2, context=2, expert=2),
        ParallelConfig(tensor=2, sequence=True, context=2, expert=4),
    ],
    ids=["one process", "tp2 sp pp2", "pp2 vpp2", "pp2 cp2 ep2", "tp2 sp cp2 ep4"],
)
def test_tables_cover_megatrons_model_and_transformers_loads_what_it_saves(
    folders, tmp_path, parallel
):
    """Loading checks names and shapes of all parameters; the logits are then transformers' own."""
    here = [folder for folder in folders if parallel.expert == 1 or "moe" in folder.name]
    run_world(parallel.replica, through_megatron, here, tmp_path, parallel)
    tokens = torch.arange(20).reshape(2, 10)
    for folder in here:
        source, saved = (
            transformers.AutoModelForCausalLM.from_pretrained(path)(tokens).logits
            for path in (folder, tmp_path / folder.name)
        )
        assert torch.equal(source, saved), folder.name
