"""DAPO's dynamic sampling rule and overlong penalty."""

from dataclasses import replace

import pytest
import torch

from megatron_stare.algorithms.filters import (
    FallBack,
    Mixed,
    NotAllRight,
    NotAllWrong,
    has_signal,
    overlong_penalty,
)
from megatron_stare.algorithms.simple_tir import AccuracyBand, Finished
from megatron_stare.types import Group, Prompt, Reward, RolloutBatch, Sample
from tests.unit.algorithms.golden import assert_golden, method_example


def test_golden_dynamic_sampling():
    inputs, expected = method_example("DAPO/dynamic_sampling")
    assert {name: has_signal(g) for name, g in inputs["groups"].items()} == expected["keep"]


def test_golden_overlong_penalty_has_the_papers_floor():
    inputs, expected = method_example("DAPO/overlong")
    penalty = overlong_penalty(
        torch.tensor(inputs["lengths"]), inputs["L_max"], inputs["L_cache"], inputs["factor"]
    )
    assert_golden(penalty.double(), expected["paper"])


def test_the_factor_scales_the_penalty():
    lengths = torch.tensor([0, 80, 90, 100])
    assert overlong_penalty(lengths, 100, 20, 0.5).tolist() == [0.0, 0.0, -0.25, -0.5]


def group_of(*verdicts: float | None) -> Group:
    """A group of samples with these verdicts; None was lost, and is not judged."""
    prompt = Prompt("0", "file:1", "?", (1,), "!")
    sample = Sample(prompt, 0, "", (1,), (0.0,), (True,), "stop", (0,), 0.0)
    rewards = tuple(
        Reward(v or 0.0, v or 0.0, None if v is not None else "lost", 0.0, v is not None)
        for v in verdicts
    )
    return Group(prompt, (sample,) * len(verdicts), rewards)


@pytest.mark.parametrize(
    ("verdicts", "mixed", "not_all_right", "not_all_wrong"),
    [
        ((0.0, 1.0), True, True, True),
        ((0.0, 0.0), False, True, False),
        ((1.0, 1.0), False, False, True),
        ((1.0, 1.0, None), False, False, True),
        ((0.0, 0.0, None), False, True, False),
        ((0.0, 1.0, None), True, True, True),
        ((0.5, 1.0), True, True, True),
        ((1.0,), True, False, True),
        ((0.0,), True, True, False),
    ],
)
def test_which_groups_a_filter_keeps(verdicts, mixed, not_all_right, not_all_wrong):
    group = group_of(*verdicts)
    assert Mixed().filter(group) is (group if mixed else None)
    assert NotAllRight().filter(group) is (group if not_all_right else None)
    assert NotAllWrong().filter(group) is (group if not_all_wrong else None)


def test_golden_gate_of_demonstrations():
    assert [falls_back(count, 8, 0) for count in (0, 1, 2, 8)] == [True, False, False, False]
    assert [falls_back(count, 8, 2) for count in (0, 2, 3)] == [True, True, False]


def falls_back(num_right: int, size: int, gate: int) -> bool:
    group = group_of(*[1.0] * num_right, *[0.0] * (size - num_right))
    worked = replace(group.prompt, demonstration="!!", demonstration_ids=(3, 4, 2))
    kept = FallBack(gate=gate).filter(replace(group, prompt=worked))
    assert kept is not None
    (*_, sample) = kept.samples
    if sample.origin == "policy":
        assert kept.samples == group.samples
        return False
    assert (kept.prompt, len(kept.samples), sample.token_ids) == (worked, 1, (3, 4, 2))
    assert (kept.rewards[0].value, kept.rewards[0].correct) == (1, 1)
    assert sample.weight_versions == (0, 0, 0)
    return True


@pytest.mark.parametrize(
    ("num_right", "origin"),
    [(0, "demonstration"), (1, "demonstration"), (2, "guide"), (3, "guide"), (4, "policy")],
)
def test_between_its_gates_a_demonstration_is_a_guide(num_right, origin):
    group = group_of(*[1.0] * num_right, *[0.0] * (8 - num_right))
    worked = replace(group.prompt, demonstration="!!", demonstration_ids=(3, 4, 2))
    kept = FallBack(gate=1, guide_gate=3).filter(replace(group, prompt=worked))
    assert kept is not None
    assert {sample.origin for sample in kept.samples} == {origin}


def test_a_guide_s_tokens_are_neither_samples_nor_other_demonstrations():
    group = group_of(1.0, 0.0)
    worked = replace(group.prompt, demonstration="!!", demonstration_ids=(3, 4, 2))
    guide = FallBack(guide_gate=1).filter(replace(group, prompt=worked))
    shown = FallBack(gate=1).filter(replace(group, prompt=worked))
    assert guide is not None
    assert shown is not None
    batch = RolloutBatch.from_groups([guide, group, shown])
    demonstrated, guided = batch.tokens_of_demonstrations
    assert guided.tolist() == [True] * 3 + [False] * 5
    assert demonstrated.tolist() == [False] * 5 + [True] * 3
    assert batch.judged.loss_mask.tolist() == [False] * 3 + [True] * 2 + [False] * 3


def test_a_group_whose_prompt_has_no_demonstration_stays_as_it_is():
    group = group_of(0.0, 0.0)
    assert FallBack().filter(group) is group


@pytest.mark.parametrize(
    ("verdicts", "kept"),
    [
        ((1, 0, 0, 0, 0, 0, 0, 0, 0, 0), True),
        ((1, *[0] * 10), False),
        ((0, *[1] * 10), False),
        ((1, 1, 0), True),
        ((0.5, 0.5), False),
        ((0.0, 1.0, None, None), True),
        ((1.0,), True),
        ((None, None), False),
    ],
)
def test_a_band_keeps_groups_that_are_neither_too_hard_nor_too_easy(verdicts, kept):
    group = group_of(*verdicts)
    assert AccuracyBand().filter(group) is (group if kept else None)


@pytest.mark.parametrize(
    ("reasons", "kept"),
    [
        (["stop"] * 4 + ["length"] * 4, True),
        (["stop"] * 3 + ["length"] * 5, False),
        (["length"] * 8, False),
        (["stop", "stop"], True),
        (["stop", "length"], False),
        (["void", "turns", "seconds", "stop"], True),
    ],
)
def test_a_group_is_kept_for_the_samples_that_have_ended(reasons, kept):
    group = group_of(*[1.0] * len(reasons))
    samples = tuple(
        replace(s, finish_reason=r) for s, r in zip(group.samples, reasons, strict=True)
    )
    group = replace(group, samples=samples)
    assert Finished().filter(group) is (group if kept else None)
