"""A target entropy that moves over the steps of a run."""

import pytest
from pydantic import ValidationError

from megatron_stare.algorithms.stare import AnnealConfig, StareConfig, StareController

ANNEAL = {"from_step": 10, "to_step": 30, "to": 0.2}


@pytest.mark.parametrize(
    ("shape", "targets"),
    [("linear", [0.6, 0.6, 0.5, 0.4, 0.2, 0.2]), ("cosine", [0.6, 0.6, 0.541421, 0.4, 0.2, 0.2])],
)
def test_an_annealed_target_moves_between_two_steps(shape, targets):
    config = StareConfig.model_validate(
        {"target_entropy": 0.6, "anneal": ANNEAL | {"shape": shape}}
    )
    found = [config.target_at(step) for step in (1, 10, 15, 20, 30, 1000)]
    assert found == pytest.approx(targets, abs=1e-6)


def test_the_gate_follows_the_target_of_the_step():
    """The same entropy opens it first, and closes it when the target has gone below."""
    config = StareConfig.model_validate(
        {"target_entropy": 0.6, "anneal": ANNEAL, "adaptive": True, "alpha": 0.1}
    )
    controller = StareController(config)
    decisions = [controller.update(0.45, step) for step in (10, 30)]
    assert [decision.gate_on for decision in decisions] == [True, False]
    assert [decision.w for decision in decisions] == pytest.approx([1.2, 1.1])


def test_without_annealing_every_step_has_the_same_target():
    assert {StareConfig().target_at(step) for step in (0, 1, 10**9)} == {0.3}


@pytest.mark.parametrize("to_step", [9, 10])
def test_a_target_takes_time_to_move(to_step):
    with pytest.raises(ValidationError, match=f"from_step=10 with to_step={to_step}"):
        AnnealConfig(to=0.2, from_step=10, to_step=to_step)
