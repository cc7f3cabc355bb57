"""Losses of pairs: TRL's and the authors' formulas, in value and gradient, on ragged samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.links.pairs import pairs_of
from megatron_stare.algorithms.offline import run_links, run_loss
from megatron_stare.algorithms.preference import PreferenceAlgorithm
from megatron_stare.types import RolloutBatch
from tests.preference_formulas import SECTIONS, Pair


def random_pairs(
    num: int, seed: int
) -> tuple[list[dict[str, Any]], list[Pair], list[torch.Tensor]]:
    """Samples as `offline` takes them, the same as pairs, and the leaves that these are made of.

    In half of the pairs the worse response comes first; some tokens are under the mask.
    """
    generator = torch.Generator().manual_seed(seed)
    samples, pairs, leaves = [], [], []
    for group in range(num):
        of_pair = {}
        for reward in (1, 0) if group % 2 else (0, 1):
            length = int(torch.randint(2, 9, (), generator=generator))
            policy, reference = -3 * torch.rand(2, length, generator=generator).double()
            mask = torch.rand(length, generator=generator) < 0.8
            mask[0] = True
            leaf = policy.requires_grad_()
            leaves.append(leaf)
            of_pair[reward] = leaf[mask], reference[mask]
            samples.append(
                {
                    "reward": reward,
                    "group": group,
                    "mask": mask.int().tolist(),
                    "logprobs": leaf.tolist(),
                    "reference_logprobs": reference.tolist(),
                }
            )
        (chosen, of_chosen), (rejected, of_rejected) = of_pair[1], of_pair[0]
        pairs.append(Pair(chosen, rejected, of_chosen, of_rejected))
    return samples, pairs, leaves


@pytest.mark.parametrize("name", SECTIONS)
def test_value_and_gradient_are_those_of_the_formula(name):
    section, formula = SECTIONS[name]
    samples, pairs, leaves = random_pairs(12, seed=3)
    credit, _ = run_links(section, samples)
    found = run_loss(section, samples, credit)
    expected = formula(pairs)
    assert found.loss == pytest.approx(expected.item(), abs=1e-6)
    gradients = torch.autograd.grad(expected, leaves)
    for row, gradient in zip(found.gradients, gradients, strict=True):
        assert row == pytest.approx(gradient.tolist(), abs=1e-7)
    assert any(any(row) for row in found.gradients)


def test_the_loss_of_another_policy_is_the_tangent_of_this_one():
    """Which is why a batch of pairs has one update."""
    samples, *_ = random_pairs(2, seed=5)
    credit, _ = run_links("dpo", samples)
    here = run_loss("dpo", samples, credit)
    for sample in samples:
        sample["current_logprobs"] = [value - 0.1 for value in sample["logprobs"]]
    there = run_loss("dpo", samples, credit)
    moved = sum(-0.1 * slope for row in here.gradients for slope in row)
    assert there.loss == pytest.approx(here.loss + moved, abs=1e-6)
    assert there.gradients == here.gradients


def test_every_two_samples_with_unequal_rewards_are_a_pair():
    batch = RolloutBatch(
        token_ids=torch.zeros(12, dtype=torch.int64),
        prompt_lengths=torch.ones(6, dtype=torch.int64),
        response_lengths=torch.ones(6, dtype=torch.int64),
        loss_mask=torch.tensor([1, 1, 1, 1, 0, 1]).bool(),
        rollout_logprobs=torch.zeros(6),
        rewards=torch.tensor([0.5, 1.0, 0.5, 1.0, 0.0, 0.0]),
        verdicts=torch.zeros(6),
        group_ids=torch.tensor([7, 7, 7, 3, 3, 3]),
    )
    better, worse = pairs_of(batch)
    pairs = sorted(zip(better.tolist(), worse.tolist(), strict=True))
    assert pairs == [(1, 0), (1, 2), (3, 5)], "sample 4 has no token"


def test_a_step_without_a_pair_learns_nothing():
    samples = [{"reward": 1, "group": 0, "logprobs": [-1.0, -2.0]} for _ in range(3)]
    credit, _ = run_links("simpo", samples)
    found = run_loss("simpo", samples, credit)
    assert found.loss == 0
    assert not any(any(row) for row in found.gradients)


def test_confident_pairs_have_finite_losses():
    far = {"reward": 0, "group": 0, "logprobs": [-1e4] * 3, "reference_logprobs": [-1e-3] * 3}
    near = {"reward": 1, "group": 0, "logprobs": [-1e-3], "reference_logprobs": [-1e4]}
    for rewards in ((0, 1), (1, 0)):
        samples = [far | {"reward": rewards[0]}, near | {"reward": rewards[1]}]
        credit, _ = run_links({"method": "dpo", "dpo": {"beta": 100}}, samples)
        found = run_loss({"method": "dpo", "dpo": {"beta": 100}}, samples, credit)
        assert math.isfinite(found.loss)
        assert all(map(math.isfinite, [slope for row in found.gradients for slope in row]))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            {"method": "grpo"},
            r"method='grpo': 0 of links=\[grpo\] compare pairs, expected one of dpo, ipo, simpo",
        ),
        ({"links": ["dpo", "ipo"]}, r"2 of links=\[dpo, ipo\] compare pairs, expected one"),
        ({"policy": "clip"}, r"policy=\[clip\] learns from no pairs: expected tangent"),
        ({"links": ["dpo", "tis"]}, "tis reads log-probs of the engine, which pairs do not have"),
        ({"terms": ["guide_gradient"]}, "guide_gradient reads .*, which pairs do not have"),
        ({"curriculum": "vade"}, r"curriculum=\[vade\]: pairs are drawn epoch after epoch"),
        ({"epochs": {"count": 2}}, "epochs goes through a batch 2 times: .*expected 1"),
        ({"dpo": {"label_smoothing": 0.5}}, "label_smoothing"),
        ({"dpo": {"beta": 0}}, "beta"),
    ],
)
def test_what_pairs_cannot_do_is_refused(section, said):
    with pytest.raises(ValidationError, match=said):
        PreferenceAlgorithm.model_validate(section)


def test_settings_beside_the_default_method_are_its_own():
    assert PreferenceAlgorithm.model_validate({"dpo": {"beta": 0.3}}).comparison.beta == 0.3
    assert PreferenceAlgorithm.model_validate({"method": "simpo"}).comparison.beta == 2.0
