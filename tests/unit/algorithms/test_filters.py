"""DAPO's dynamic sampling rule and overlong penalty."""

import torch

from megatron_stare.algorithms.filters import has_signal, overlong_penalty
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
