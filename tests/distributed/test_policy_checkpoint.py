"""A policy saved by one layout goes on in the same one bit for bit, and in others to rounding.

Adam's epsilon is large: its sign-like step would blow rounding up where gradients are tiny.
"""

from __future__ import annotations

import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import megatron_stare.policy  # noqa: F401  (brings in Megatron-Core the way it has to be)
from megatron_stare.config.policy import ModelConfig, OptimConfig, ParallelConfig, sample_multiple
from megatron_stare.data.packing import plan_share
from megatron_stare.policy.build import build_policy
from megatron_stare.policy.checkpoint import (
    PolicyWrite,
    Written,
    begin_save,
    load_policy,
)
from megatron_stare.policy.flops import sample_cost
from megatron_stare.policy.groups import build_groups
from megatron_stare.policy.norm import RMSNorm
from megatron_stare.policy.staging import Staging
from megatron_stare.policy.step import Policy
from megatron_stare.sft import supervised_objective
from megatron_stare.types import TokenBatch
from megatron_stare.weights.hf_config import read_hf_config
from tests.models import NETWORKS, VOCAB_SIZE, make_hf_folder
from tests.policies import assert_close_relative, have_extra_state
from tests.worlds import run_world

pytestmark = pytest.mark.slow

TP2 = (2, {"tensor": 2, "sequence": True})
PP2 = (2, {"pipeline": 2})
PP2_INTERLEAVED = (2, {"pipeline": 2, "virtual_pipeline": 2})
DP2 = (2, {})
DP8 = (8, {})
CP2 = (2, {"context": 2})
EP2 = (2, {"expert": 2})
ALONE = (1, {})
# Of eight data-parallel ranks, three hold the state of its embedding.
LARGE_VOCABULARY = {"large vocabulary": {"family": "llama", "vocab_size": 2000}}


@dataclass(frozen=True)
class Outcome:
    """Loss of each update on every rank, and the weights after the last."""

    losses: list[float]
    weights: dict[str, Tensor]


def batch_of(number: int) -> TokenBatch:
    """Eight ragged samples, another eight for every number."""
    generator = torch.Generator().manual_seed(number)
    prompts = torch.randint(1, 6, (8,), generator=generator)
    responses = torch.randint(2, 40, (8,), generator=generator)
    num_tokens = int(prompts.sum() + responses.sum())
    return TokenBatch(
        token_ids=torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator),
        prompt_lengths=prompts,
        response_lengths=responses,
        loss_mask=torch.ones(int(responses.sum()), dtype=torch.bool),
    )


def open_policy(folder: Path, parallel: dict, dtype: str = "float32") -> Policy:
    layout = ParallelConfig(**parallel)
    return build_policy(
        read_hf_config(folder),
        build_groups(layout),
        model=ModelConfig.model_validate({"path": folder, "dtype": dtype}),
        parallel=layout,
        optim=OptimConfig(lr=1e-2, decay="linear", eps=1e-3, weight_decay=0.1),
        num_updates=10,
        temperature=1.0,
        seed=1,
        device=torch.device("cpu"),
    )


def take_updates(policy: Policy, numbers: range) -> Outcome:
    groups, losses = policy.groups, []
    for batch in map(batch_of, numbers):
        share = plan_share(
            batch,
            [list(range(len(batch)))],
            dp_rank=groups.dp.rank(),
            dp_size=groups.dp.size(),
            max_tokens=128,
            cost=sample_cost(policy.shape),
            sample_multiple=sample_multiple(groups.cp.size()),
        )
        objective = supervised_objective(batch, share, policy)
        losses.append(policy.update(batch, share.micro_batches, objective).loss)
    return Outcome(losses, {name: tensor.clone() for name, tensor in policy.hf_tensors()})


def save_after(
    rank: int, num_updates: int, folder: Path, parallel: dict, saved: Path, dtype: str = "float32"
) -> tuple[Outcome, Outcome]:
    """What was saved, and how training went on while it was written."""
    policy = open_policy(folder, parallel, dtype)
    at_save = take_updates(policy, range(num_updates))
    if rank == 0:
        saved.mkdir()
    dist.barrier()
    save = begin_save(policy, saved, Staging())
    with ThreadPoolExecutor() as executor:
        writing = executor.submit(write_late, save)
        after = take_updates(policy, range(num_updates, num_updates + 2))
        finish(rank, save, writing.result())
    return at_save, after


def write_late(save: PolicyWrite) -> Written:
    """When the policy has long come to where it changes, and has to wait."""
    time.sleep(0.3)
    assert not save.is_copied.is_set()
    return save.write()


def finish(rank: int, save: PolicyWrite, written: Written) -> None:
    """Write the index. Collective."""
    places = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(places, written.places)
    if rank == 0:
        save.write_index(places)
    dist.barrier()


def go_on_after(
    rank: int,
    num_updates: int,
    folder: Path,
    parallel: dict,
    saved: Path,
    is_same_world: bool,
    dtype: str = "float32",
) -> tuple[Outcome, Outcome]:
    """What was loaded, into a policy that was elsewhere, and how training went on."""
    policy = open_policy(folder, parallel, dtype)
    take_updates(policy, range(7, 8))
    load_policy(policy, saved, is_same_world=is_same_world)
    loaded = take_updates(policy, range(0))
    return loaded, take_updates(policy, range(num_updates, num_updates + 2))


@dataclass
class Saves:
    """What a network in a layout saved, and how it went on: made once, and loaded by many."""

    root: Path
    made: dict[tuple[str, str, int], tuple[Path, tuple[Outcome, Outcome]]]

    def of(self, network: str, layout: tuple, num_updates: int = 2) -> tuple:
        """The folder of the model, and outcomes of rank 0: at the save, and two updates later."""
        key = (network, str(layout), num_updates)
        if key not in self.made:
            folder = self.root / str(len(self.made))
            make_hf_folder(folder / "model", **(NETWORKS | LARGE_VOCABULARY)[network])
            world, parallel = layout
            arguments = (num_updates, folder / "model", parallel, folder / "saved")
            self.made[key] = folder, run_world(world, save_after, *arguments)[0]
        return self.made[key]

    def go_on(self, network: str, before: tuple, after: tuple, num_updates: int = 2) -> tuple:
        """Outcomes of a layout that saved, and of one that loaded."""
        folder, expected = self.of(network, before, num_updates)
        world, parallel = after
        arguments = (num_updates, folder / "model", parallel, folder / "saved", world == before[0])
        return expected, run_world(world, go_on_after, *arguments)[0]


@pytest.fixture(scope="module")
def saves(tmp_path_factory) -> Saves:
    return Saves(tmp_path_factory.mktemp("saves"), {})


def assert_identical(found: Outcome, expected: Outcome) -> None:
    assert found.losses == expected.losses
    assert found.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        assert torch.equal(found.weights[name], tensor), name


@pytest.mark.parametrize(
    ("network", "layout"),
    [
        ("qwen2", ALONE),
        ("qwen3 tied", DP2),
        ("large vocabulary", DP8),
        ("llama", TP2),
        ("qwen3 tied", TP2),
        ("qwen3 tied", PP2),
        ("qwen2", PP2_INTERLEAVED),
        ("llama", CP2),
        ("qwen3_moe", EP2),
    ],
    ids=str,
)
def test_the_same_layout_goes_on_bit_for_bit(network, layout, saves):
    expected, found = saves.go_on(network, layout, layout)
    assert_identical(found[0], Outcome([], expected[0].weights))
    assert_identical(found[1], expected[1])


@pytest.mark.parametrize(
    ("network", "before", "after"),
    [
        ("llama", TP2, PP2),
        ("qwen3 tied", TP2, PP2),
        ("qwen2", DP2, (4, {"tensor": 4, "sequence": True})),
        ("qwen2", PP2_INTERLEAVED, TP2),
        ("qwen3 tied", PP2, ALONE),
        ("qwen3 tied", DP2, PP2),
        ("qwen3 tied", DP2, (4, {"tensor": 2, "sequence": True})),
        ("llama", CP2, ALONE),
        ("large vocabulary", DP8, ALONE),
        ("qwen3_moe", EP2, PP2),
        ("qwen3_moe", DP2, TP2),
    ],
    ids=str,
)
def test_another_layout_goes_on_to_rounding(network, before, after, saves):
    expected, found = saves.go_on(network, before, after)
    assert_identical(found[0], Outcome([], expected[0].weights))
    assert found[1].losses == pytest.approx(expected[1].losses, abs=1e-5)
    assert_close_relative(found[1].weights, expected[1].weights, 1e-5)


def test_in_bfloat16_the_float32_weights_behind_it_are_saved_too(tmp_path):
    folder = make_hf_folder(tmp_path / "model", **NETWORKS["qwen3 tied"])
    saved = tmp_path / "saved"
    expected = run_world(2, save_after, 2, folder, {}, saved, "bfloat16")[0]
    found = run_world(2, go_on_after, 2, folder, {}, saved, True, "bfloat16")[0]
    assert_identical(found[1], expected[1])


def test_a_policy_that_has_learned_nothing_yet_is_saved_like_any_other(saves):
    expected, found = saves.go_on("qwen2", DP2, DP2, num_updates=0)
    assert_identical(found[1], expected[1])


def swap_while_saving(rank: int, folder: Path, saved: Path) -> bool:
    policy = open_policy(folder, {})
    zeros = {name: torch.zeros_like(tensor) for name, tensor in policy.named_parameters()}
    saved.mkdir()
    save = begin_save(policy, saved, Staging())
    with ThreadPoolExecutor() as executor:
        executor.submit(write_late, save)
        with policy.weights_swapped_for(zeros):
            return save.is_copied.is_set()


def test_weights_are_not_swapped_before_they_are_copied(tmp_path):
    make_hf_folder(tmp_path / "model")
    assert run_world(1, swap_while_saving, tmp_path / "model", tmp_path / "saved") == [True]


def held_behind_the_copies(rank: int, folder: Path, saved: Path) -> int:
    """Tensors of a save, some of them put together for it, that live on when they are copied."""
    policy = open_policy(folder, {})
    if rank == 0:
        saved.mkdir()
    dist.barrier()
    save = begin_save(policy, saved, Staging())
    buckets = save._writer.write_buckets or []
    tensors = [weakref.ref(tensor) for *_, (_, items) in buckets for _, tensor in items]
    assert tensors
    del buckets
    finish(rank, save, save.write())
    return sum(tensor() is not None for tensor in tensors)


def test_a_save_lets_go_of_what_it_has_copied(tmp_path):
    """On a GPU moments that were put together would stay there until the save is whole."""
    folder = make_hf_folder(tmp_path / "model", **NETWORKS["qwen3 tied"])
    assert run_world(2, held_behind_the_copies, folder, tmp_path / "saved") == [0, 0]


def go_on_with_extra_states(rank: int, *arguments) -> tuple[Outcome, Outcome]:
    """As with Transformer Engine, whose norms have objects beside their weights."""
    have_extra_state(RMSNorm)
    return go_on_after(rank, *arguments)


def save_with_extra_states(rank: int, *arguments) -> tuple[Outcome, Outcome]:
    have_extra_state(RMSNorm)
    return save_after(rank, *arguments)


@pytest.mark.parametrize("saves_with", [False, True])
def test_a_run_goes_on_with_another_kind_of_layers(tmp_path, saves_with):
    folder = make_hf_folder(tmp_path / "model", "qwen3")
    save, go_on = save_after, go_on_with_extra_states
    if saves_with:
        save, go_on = save_with_extra_states, go_on_after
    saved = tmp_path / "saved"
    ((at_save, after),) = run_world(1, save, 2, folder, {}, saved)
    ((loaded, gone_on),) = run_world(1, go_on, 2, folder, {}, saved, True)
    assert_identical(replace(loaded, losses=at_save.losses), at_save)
    assert_identical(gone_on, after)
