"""Corrections of the train/rollout mismatch: golden numbers, whole samples, what never counts."""

import math
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from megatron_stare.algorithms.corrections import LEVELS, Correction, IcePop, Mis, Tis, correct
from megatron_stare.algorithms.losses import clipped_policy_loss
from tests.unit.algorithms.golden import assert_golden, method_example, tensor

CORRECTIONS = {"tis": Tis, "icepop": IcePop, "mis": Mis}
GOLDEN = [
    ("TIS/token", "ratio", {"kind": "icepop", "low": 0.0, "high": 1e9}),
    ("TIS/token", "w_verl", {"kind": "tis"}),
    ("TIS/token", "w_slime", {"kind": "tis", "low": 0.0, "high": 2.0}),
    ("TIS/token", "w_openrlhf", {"kind": "tis", "low": 0.5, "high": 5.0}),
    ("TIS/sequence", "w", {"kind": "tis", "level": "sequence"}),
    ("TIS/sequence", "geo_mean", {"kind": "tis", "level": "geometric"}),
    ("IcePop", "w", {"kind": "icepop"}),
    ("MIS/token_mask_and_veto", "keep", {"kind": "mis"}),
    ("MIS/seq-mask-tis", "keep_seq", {"kind": "mis", "level": "geometric", "high": 5.0}),
]


def made(kind: str, **settings) -> Correction:
    return CORRECTIONS[kind](**settings)


def of_one_sample(log_ratios: Tensor, config: Correction):
    ids = torch.zeros(len(log_ratios), dtype=torch.int64)
    return correct(log_ratios, ids, torch.ones_like(ids, dtype=torch.bool), config)


@pytest.mark.parametrize(
    ("name", "key", "settings"), GOLDEN, ids=[f"{n} {k}" for n, k, _ in GOLDEN]
)
def test_golden_weights(name, key, settings):
    inputs, expected = method_example(name)
    d = tensor(inputs["old_logp"]) - tensor(inputs["rollout_logp"])
    weights = of_one_sample(d, made(**settings)).weights
    assert_golden(weights, torch.broadcast_to(tensor(expected[key]), (4,)).tolist())


def test_golden_decoupled_loss():
    """The factor is of the policy that starts the step, the clipped ratio of the current one."""
    inputs, expected = method_example("TIS/decoupled_loss")
    names = ("logp", "old_logp", "rollout_logp", "adv", "mask")
    flat = {name: tensor(inputs[name]).flatten() for name in names}
    counted = flat["mask"] > 0
    ids = torch.arange(2).repeat_interleave(4)
    correction = correct(
        flat["old_logp"] - flat["rollout_logp"],
        ids,
        counted,
        made(kind="tis", high=inputs["C"]),
    )
    assert_golden(correction.weights * flat["mask"], tensor(expected["w"]).flatten().tolist())
    loss = clipped_policy_loss(
        flat["logp"],
        flat["old_logp"],
        flat["adv"],
        clip_low=inputs["eps_low"],
        clip_high=inputs["eps_high"],
        dual_clip=inputs["c"],
        weights=correction.weights,
    )
    assert_golden(loss[counted].sum() / counted.sum(), expected["loss"])


def test_the_config_offers_what_the_tables_hold():
    assert set(get_args(Correction.model_fields["level"].annotation)) == set(LEVELS)


def test_the_band_of_mis_reaches_as_far_down_as_up():
    assert made(kind="mis").band == (0.5, 2.0)
    assert made(kind="mis", high=1.25).band == (0.8, 1.25)
    assert made(kind="mis", low=0.9, high=1.25).band == (0.9, 1.25)


every_kind = pytest.mark.parametrize("kind", CORRECTIONS)
every_level = pytest.mark.parametrize("level", LEVELS)


@every_kind
@every_level
def test_without_mismatch_every_factor_is_exactly_one(kind, level):
    correction = of_one_sample(torch.zeros(7), made(kind=kind, level=level))
    assert correction.weights.tolist() == [1.0] * 7
    assert not correction.outside.any()


@every_kind
@every_level
def test_samples_do_not_depend_on_what_they_are_packed_with(kind, level):
    """In any order of samples, with other samples or without, also none at all."""
    config = made(kind=kind, level=level)
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([5, 5, 5, 2, 2, 9])
    d = torch.randn(6, generator=generator)
    counted = torch.tensor([True, True, False, True, True, False])
    together = correct(d, ids, counted, config)
    for chosen in (ids == 5, ids == 2, ids == 9, ids < 0):
        alone = correct(d[chosen], ids[chosen], counted[chosen], config)
        assert torch.equal(alone.weights, together.weights[chosen])
        assert torch.equal(alone.outside, together.outside[chosen])


@every_kind
@every_level
def test_tokens_under_the_mask_enter_nothing(kind, level):
    """A tool's tokens were not sampled: the engine may have no log-prob for them, or any."""
    config = made(kind=kind, level=level)
    ids, counted = torch.zeros(3, dtype=torch.int64), torch.tensor([True, False, True])
    without = correct(torch.tensor([0.9, 0.7]), ids[:2], counted[::2], config)
    for masked in (math.nan, -math.inf, 30.0):
        correction = correct(torch.tensor([0.9, masked, 0.7]), ids, counted, config)
        assert torch.equal(correction.weights[counted], without.weights)
        assert correction.weights.isfinite().all()


@every_kind
def test_a_sample_is_kept_or_dropped_as_a_whole_above_the_token_level(kind):
    d = torch.tensor([2.0, -0.5, 0.0])  # sum 1.5, mean 0.5: exp 4.5 and 1.6
    for level, is_outside in (("sequence", True), ("geometric", False)):
        config = made(kind=kind, level=level, low=0.5, high=2.0)
        correction = of_one_sample(d, config)
        assert correction.outside.tolist() == [is_outside] * 3
        assert len(set(correction.weights.tolist())) == 1


def test_no_gradient_and_no_infinity():
    d = torch.tensor([500.0, -500.0, 0.1], requires_grad=True)
    correction = of_one_sample(d, made(kind="icepop", low=0.0, high=1e30))
    assert not correction.weights.requires_grad
    torch.testing.assert_close(correction.weights, torch.tensor([20.0, -20.0, 0.1]).exp())


@every_kind
def test_a_broken_policy_does_not_pass_for_an_on_policy_one(kind):
    """Its loss has to be not finite, so that the update is skipped."""
    logprobs = torch.tensor([math.nan, -1.0])
    weights = of_one_sample(logprobs + 1.0, made(kind=kind)).weights
    bounds = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 10.0}
    loss = clipped_policy_loss(logprobs, logprobs, torch.ones(2), **bounds, weights=weights)
    assert loss.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "tis", "low": 1.5}, r"less than or equal to 1"),
        ({"kind": "tis", "high": 0.9}, r"greater than or equal to 1"),
        ({"kind": "mis", "level": "batch"}, r"'token', 'sequence' or 'geometric'"),
    ],
)
def test_a_band_holds_the_ratio_one(settings, message):
    with pytest.raises(ValidationError, match=message):
        made(**settings)
