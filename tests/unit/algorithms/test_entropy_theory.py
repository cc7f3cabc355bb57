"""The first-order theory behind STARE, against golden numbers and finite differences."""

import doctest
import math
from pathlib import Path

import pytest
import torch

from megatron_stare.algorithms.entropy_theory import (
    critical_surprisal,
    entropy_sensitivity,
    fit_entropy_law,
)
from tests.unit.algorithms.golden import assert_golden, method_example, tensor


def random_probs(seed: int) -> torch.Tensor:
    """From nearly uniform to nearly certain, over 2 to 13 tokens."""
    generator = torch.Generator().manual_seed(seed)
    size = 2 + seed % 12
    logits = torch.randn(size, dtype=torch.float64, generator=generator)
    return (logits * (0.1 + seed % 5)).softmax(0)


def entropy(logits: torch.Tensor) -> float:
    return torch.special.entr(logits.softmax(-1)).sum().item()


def test_golden_sensitivity_and_critical_surprisal():
    inputs, expected = method_example("STARE/entropy_sensitivity")
    probs = tensor(inputs["p"])
    sensitivity = entropy_sensitivity(probs)
    assert_golden(sensitivity, expected["dH_deta"])
    assert critical_surprisal(probs) == pytest.approx(expected["s_star"], rel=1e-8)
    assert (probs * sensitivity).sum().item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("seed", range(30))
def test_sensitivity_is_the_derivative_of_entropy_along_a_policy_gradient_step(seed):
    probs, eta = random_probs(seed), 1e-5
    slopes = []
    for token in range(len(probs)):
        step = eta * (torch.nn.functional.one_hot(torch.tensor(token), len(probs)) - probs)
        slopes.append((entropy(probs.log() + step) - entropy(probs.log() - step)) / (2 * eta))
    torch.testing.assert_close(entropy_sensitivity(probs), tensor(slopes), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(30))
def test_sensitivity_is_positive_exactly_above_the_critical_surprisal(seed):
    probs = random_probs(seed)
    critical = critical_surprisal(probs)
    assert critical <= entropy(probs.log()) + 1e-12
    assert torch.equal(entropy_sensitivity(probs) > 0, -probs.log() > critical)


def test_for_a_uniform_distribution_the_critical_surprisal_is_the_entropy():
    assert critical_surprisal(torch.full((8,), 0.125, dtype=torch.float64)) == pytest.approx(
        math.log(8)
    )


def test_the_example_in_the_documentation_is_true():
    page = Path(__file__).parents[3] / "docs" / "stare.md"
    outcome = doctest.testfile(str(page), module_relative=False)
    assert outcome.attempted == 5
    assert outcome.failed == 0


def test_golden_quadrants():
    inputs, expected = method_example("STARE/four_quadrants")
    probs = tensor(inputs["p"])
    is_high = (-probs.log() > critical_surprisal(probs)).tolist()
    actual = {
        f"{name},a={token},s={'high' if is_high[token] else 'low'}": "up" if change > 0 else "down"
        for name, advantage in (("A>0", 1.0), ("A<0", -1.0))
        for token, change in enumerate((advantage * entropy_sensitivity(probs)).tolist())
    }
    assert actual == expected


def test_golden_expected_change():
    inputs, expected = method_example("STARE/expected_entropy_change")
    probs, advantages = tensor(inputs["p"]), tensor(inputs["A_per_token"])
    change = (probs * advantages * entropy_sensitivity(probs)).sum()
    assert_golden(change, expected["expected_dH"])


def test_golden_critical_weight_flips_the_sign_of_the_batch():
    inputs, expected = method_example("STARE/critical_weight")
    changes = tensor(inputs["A"]) * entropy_sensitivity(tensor(inputs["p"]))[inputs["sampled"]]
    amplified = changes[inputs["L_plus"]].sum()
    flip = 1 - changes.sum() / amplified
    assert_golden(flip, expected["W_star"])
    for w, slope in ((1.0, "dHbar_W1"), (1.1, "dHbar_W1p1"), (flip, "dHbar_at_Wstar")):
        assert_golden((changes.sum() + (w - 1) * amplified) / len(changes), expected[slope])


def test_golden_law():
    """Of the example's points, five times over: a law has twenty steps at least."""
    inputs, expected = method_example("entropy_law")
    law = fit_entropy_law(inputs["H"] * 5, inputs["R"] * 5)
    assert law is not None
    assert_golden(tensor([law.a, law.b, law.ceiling]), [0.25, 0.9, expected["R_at_H0"]])
    assert law.high - law.low < 1e-8
    assert_golden(tensor([law.at(h) for h in inputs["H"]]), inputs["R"])


def test_the_interval_of_a_ceiling_holds_it_where_steps_err_alike():
    """An interval of independent steps holds it 60% of the time at this correlation, 0.7."""
    noise = torch.Generator().manual_seed(0)
    draws = 0.03 * torch.randn(60, 200, generator=noise, dtype=torch.float64)
    fading = 0.7 ** torch.arange(200, dtype=torch.float64)
    errors = torch.nn.functional.conv1d(
        torch.nn.functional.pad(draws, (199, 0))[:, None], fading.flip(0)[None, None]
    )[:, 0]
    entropies = 1.2 * torch.linspace(0, -3, 200, dtype=torch.float64).exp()
    rewards = 0.9 - 0.25 * entropies.exp() + errors
    laws = [fit_entropy_law(entropies.tolist(), row) for row in rewards.tolist()]
    assert sum(law is not None and law.low <= 0.65 <= law.high for law in laws) >= 0.85 * 60


@pytest.mark.parametrize(
    ("entropies", "rewards"),
    [
        ([], []),
        ([0.1 * step for step in range(19)], [0.5] * 19),
        ([0.3] * 40, [0.5] * 40),
        ([math.nan] * 40, [0.5] * 40),
        ([1e4] * 20 + [0.1] * 20, [0.5] * 40),
    ],
)
def test_there_is_no_law_of_few_steps_or_of_entropy_that_does_not_move(entropies, rewards):
    assert fit_entropy_law(entropies, rewards) is None
