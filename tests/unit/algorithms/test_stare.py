"""STARE on one process: the authors' numbers, the gate and schedule, the selection."""

import math
from fractions import Fraction

import pytest
import torch
from pydantic import ValidationError

from megatron_stare.algorithms.aggregation import aggregation_coefficients
from megatron_stare.algorithms.losses import clip_shares, clipped_policy_loss
from megatron_stare.algorithms.stare import (
    StareConfig,
    StareController,
    StareDecision,
    selection_weights,
    share_of,
    stare_selection,
    stare_weights,
)
from tests.unit.algorithms.golden import assert_golden, method_example, stare_reference, tensor

ON = StareDecision(gate_on=True, w=1.1, m=0.9)
OFF = StareDecision(gate_on=False, w=1.1, m=0.9)


def random_batch(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Surprisals that often tie, and advantages of both signs and zero."""
    generator = torch.Generator().manual_seed(seed)
    surprisal = (torch.rand(n, generator=generator) * 20).round() / 10
    return surprisal, torch.randint(-1, 2, (n,), generator=generator).float()


# The authors' implementation


@pytest.mark.parametrize("case", stare_reference()["cases"], ids=lambda c: c["variant"])
def test_weights_loss_and_gradient_equal_the_authors(case):
    lengths = torch.tensor(case["lengths"])
    mask = torch.arange(len(case["log_prob"][0])) < lengths[:, None]
    logprobs = tensor(case["log_prob"])[mask].requires_grad_()
    old = tensor(case["old_log_prob"])[mask]
    advantages = tensor(case["advantages"]).repeat_interleave(lengths)
    bounds = {
        "clip_low": case["clip_low"],
        "clip_high": case["clip_high"],
        "dual_clip": case["clip_c"],
    }

    weights = stare_weights(
        -logprobs.detach(),
        advantages,
        decision=StareDecision(case["gate_on"], case["W"], case["M"]),
        config=StareConfig(variant=case["variant"], top_share=case["top_p_ratio"]),
    )
    losses = clipped_policy_loss(logprobs, old, advantages, **bounds, weights=weights)
    coefficients = aggregation_coefficients("token-mean", lengths).repeat_interleave(lengths)
    loss = (coefficients * losses).sum()
    (gradient,) = torch.autograd.grad(loss, logprobs)

    assert torch.equal(weights, tensor(case["weights"])[mask])
    assert_golden(loss, case["loss"])
    torch.testing.assert_close(gradient, tensor(case["grad"])[mask], rtol=1e-6, atol=1e-9)
    low, high, dual = clip_shares(logprobs.detach(), old, advantages, **bounds)
    assert_golden((low | high).double().mean(), case["clipfrac"])
    assert_golden(dual.double().mean(), case["clipfrac_lower"])


@pytest.mark.parametrize("variant", ["O1", "C2"])
def test_golden_omega_and_loss(variant):
    inputs, expected = method_example(f"STARE/{variant}")
    mask = tensor(inputs["mask"]).bool()
    logprobs, old = tensor(inputs["logp"])[mask], tensor(inputs["old_logp"])[mask]
    advantages = tensor(inputs["adv"])[mask]
    weights = stare_weights(
        -logprobs,
        advantages,
        decision=StareDecision(inputs["gate_on"], inputs["W"], inputs["M"]),
        config=StareConfig(variant=variant, top_share=inputs["P"]),
    )
    losses = clipped_policy_loss(
        logprobs,
        old,
        advantages,
        clip_low=inputs["eps_low"],
        clip_high=inputs["eps_high"],
        dual_clip=inputs["c"],
        weights=weights,
    )
    assert torch.equal(weights, tensor(expected["omega"])[mask])
    assert_golden(losses, tensor(expected["token_loss"])[mask].tolist())
    assert_golden(losses.mean(), expected["loss_token_mean"])


def controller_traces() -> list[tuple[StareConfig, list[tuple[float, bool, float, float]]]]:
    reference = stare_reference()["controller"]
    inputs, expected = method_example("STARE/controller")
    return [
        (
            StareConfig(
                adaptive=True,
                target_entropy=reference["target"],
                w=reference["W"],
                m=reference["M"],
                alpha=reference["alpha"],
                w_max=reference["w_max"],
                m_min=reference["m_min"],
            ),
            [(s["entropy"], s["gate_on"], s["W"], s["M"]) for s in reference["trace"]],
        ),
        (
            StareConfig(
                adaptive=True,
                target_entropy=inputs["H_tgt"],
                w=inputs["W0"],
                m=inputs["M0"],
                alpha=inputs["alpha"],
                w_max=inputs["w_max"],
                m_min=inputs["m_min"],
            ),
            [tuple(step) for step in expected["trace_H_gate_W_M"]],
        ),
    ]


@pytest.mark.parametrize(("config", "trace"), controller_traces())
def test_gate_and_schedule_follow_the_authors(config, trace):
    controller = StareController(config)
    for entropy, gate_on, w, m in trace:
        decision = controller.update(entropy)
        assert decision.gate_on is gate_on
        assert (decision.w, decision.m) == (pytest.approx(w), pytest.approx(m))


# Gate and schedule


@pytest.mark.parametrize(("entropy", "gate_on"), [(0.29, True), (0.3, False), (0.31, False)])
def test_the_gate_is_on_below_the_target_only_and_fixed_weights_stay(entropy, gate_on):
    decision = StareController(StareConfig(w=1.05, m=0.95)).update(entropy)
    assert decision == StareDecision(gate_on, 1.05, 0.95)


@pytest.mark.parametrize("entropy", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0.1, 0.9])
def test_an_entropy_that_is_not_finite_changes_nothing_and_is_reported(entropy, before):
    controller = StareController(StareConfig(adaptive=True))
    last = controller.update(before)
    decision = controller.update(entropy)
    assert not decision.entropy_is_finite
    assert (decision.gate_on, decision.w, decision.m) == (last.gate_on, last.w, last.m)
    assert controller.decision == decision


def test_the_schedule_stays_within_its_bounds():
    config = StareConfig(adaptive=True, alpha=0.07)
    controller = StareController(config)
    low = [controller.update(0.0) for _ in range(20)][-1]
    high = [controller.update(9.0) for _ in range(20)][-1]
    assert (low.w, low.m) == (config.w_max, config.m_min)
    assert (high.w, high.m) == (1.0, 1.0)


def test_a_restored_controller_continues_as_if_never_stopped():
    config = StareConfig(adaptive=True, variant="C2")
    entropies = [0.1, 0.5, 0.2, math.nan, 0.3, 0.25, math.nan]
    uninterrupted = StareController(config)
    expected = [uninterrupted.update(entropy) for entropy in entropies]
    for stop in range(len(entropies)):
        first = StareController(config)
        actual = [first.update(entropy) for entropy in entropies[:stop]]
        second = StareController(config, first.decision)
        assert actual + [second.update(entropy) for entropy in entropies[stop:]] == expected


def test_fixed_weights_come_from_the_config_not_from_a_saved_state():
    saved = StareController(StareConfig(w=1.2)).decision
    controller = StareController(StareConfig(w=1.05), saved)
    assert controller.update(0.1).w == 1.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w": 0.9}, "greater than or equal to 1"),
        ({"w": math.inf}, "finite number"),
        ({"m": 1.1}, "less than or equal to 1"),
        ({"top_share": 1.5}, "less than or equal to 1"),
        ({"top_share": 0}, "greater than 0"),
        ({"target_entropy": math.nan}, "finite number"),
        ({"alpha": 0.0}, "greater than 0"),
        ({"variant": "O2"}, "'O1', 'C2'"),
        ({"top_p": 0.1}, "Extra inputs"),
        ({"adaptive": True, "w": 1.6}, r"w=1.6 starts above w_max=1.5"),
        ({"adaptive": True, "m": 0.4}, r"m=0.4 starts below m_min=0.5"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        StareConfig(**settings)


def test_bounds_of_the_schedule_do_not_bind_fixed_weights():
    assert StareConfig(w=2.0, m=0.1).w == 2.0


def test_every_setting_is_documented():
    assert all(field.description for field in StareConfig.model_fields.values())


# Selection


def test_a_share_is_rounded_up_in_decimal():
    assert share_of(0.1, 30) == 3  # 0.1 * 30 is more than 3 in binary
    for percent in range(101):
        for count in (0, 1, 3, 7, 30, 100, 999, 10_000_000):
            assert share_of(percent / 100, count) == math.ceil(Fraction(percent, 100) * count)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("top_share", [0.0, 0.001, 0.1, 0.5, 1.0])
def test_each_sign_selects_exactly_its_share_of_most_surprising_tokens(seed, top_share):
    surprisal, advantages = random_batch(100, seed)
    ids = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    selection = stare_selection(surprisal, advantages, top_share=top_share, token_ids=ids)
    for mask, threshold, sign in (
        (selection.positive, selection.threshold_positive, advantages > 0),
        (selection.negative, selection.threshold_negative, advantages < 0),
    ):
        ranked = sorted(sign.nonzero().flatten(), key=lambda t: (-surprisal[t], ids[t]))
        expected = ranked[: math.ceil(Fraction(str(top_share)) * len(ranked))]
        assert sorted(ids[mask].tolist()) == sorted(int(ids[t]) for t in expected)
        if expected:
            assert threshold == surprisal[expected[-1]].item()
        else:
            assert math.isnan(threshold)


def test_a_sign_with_one_token_selects_it():
    selection = stare_selection(
        tensor([0.5, 3.0]), tensor([1.0, 0.0]), top_share=0.01, token_ids=torch.arange(2)
    )
    assert selection.positive.tolist() == [True, False]
    assert selection.threshold_positive == 0.5
    assert selection.negative.tolist() == [False, False]
    assert math.isnan(selection.threshold_negative)


@pytest.mark.parametrize("n", [0, 5])
def test_tokens_without_advantage_are_never_reweighted(n):
    surprisal = torch.full((n,), torch.nan)  # nor looked at
    weights = stare_weights(surprisal, torch.zeros(n), decision=ON, config=StareConfig())
    assert weights.tolist() == [1.0] * n


def test_a_token_whose_surprisal_is_nan_is_named():
    with pytest.raises(ValueError, match="token 12 has the value NaN"):
        stare_selection(
            tensor([1.0, math.nan]),
            tensor([1.0, 1.0]),
            top_share=0.5,
            token_ids=torch.tensor([11, 12]),
        )


# Weights


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("O1", [1.1, 1.0, 1.0, 1.0, 1.0]), ("C2", [1.1, 1.0, 0.9, 1.0, 1.0])],
)
def test_variants_reweight_their_sets(variant, expected):
    weights = stare_weights(
        tensor([2.0, 1.0, 2.0, 1.0, 9.0]),
        tensor([1.0, 1.0, -1.0, -1.0, 0.0]),
        decision=ON,
        config=StareConfig(variant=variant, top_share=0.5),
    )
    assert weights.tolist() == expected


def test_with_the_gate_off_every_weight_is_one():
    surprisal, advantages = random_batch(50)
    weights = stare_weights(surprisal, advantages, decision=OFF, config=StareConfig(variant="C2"))
    assert weights.tolist() == [1.0] * 50


def test_the_decision_sets_the_weights_not_where_the_schedule_started():
    decision = StareDecision(gate_on=True, w=1.25, m=0.75)
    weights = stare_weights(
        tensor([2.0, 2.0]), tensor([1.0, -1.0]), decision=decision, config=StareConfig(variant="C2")
    )
    assert weights.tolist() == [1.25, 0.75]


def test_weights_of_an_existing_selection_are_the_same():
    surprisal, advantages = random_batch(200)
    config = StareConfig(variant="C2")
    selection = stare_selection(
        surprisal, advantages, top_share=config.top_share, token_ids=torch.arange(200)
    )
    assert torch.equal(
        selection_weights(selection, ON, config),
        stare_weights(surprisal, advantages, decision=ON, config=config),
    )


def test_token_ids_decide_ties():
    weights = stare_weights(
        torch.ones(4),
        torch.ones(4),
        decision=ON,
        config=StareConfig(top_share=0.5),
        token_ids=torch.tensor([40, 10, 30, 20]),
    )
    assert (weights > 1).tolist() == [False, True, False, True]
