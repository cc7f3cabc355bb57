"""The objective: what multiplies what, and what a correction of the mismatch may change."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from megatron_stare.algorithms.corrections import correct
from megatron_stare.config.algorithm import AlgorithmConfig
from megatron_stare.objective import PolicyObjective, TokenTerms
from megatron_stare.ops.partials import TokenScores

CORRECTIONS = [
    {"kind": "tis"},
    {"kind": "icepop", "low": 0.6, "high": 1.5},
    {"kind": "mis", "low": 0.6, "high": 1.5},
    {"kind": "tis", "level": "sequence"},
    {"kind": "mis", "level": "geometric", "low": 0.9, "high": 1.1},
]
LENGTHS = torch.tensor([1, 12, 30, 7])
EVERYTHING = slice(None)


def tokens(correction: dict) -> tuple[TokenTerms, Tensor, AlgorithmConfig]:
    """Four samples; some tokens are under the mask, and the engine knows nothing of those."""
    generator = torch.Generator().manual_seed(0)
    n = int(LENGTHS.sum())
    policy = -torch.empty(n).exponential_(generator=generator)
    mask = torch.rand(n, generator=generator) < 0.8
    engine = policy + 0.5 * torch.randn(n, generator=generator)
    terms = TokenTerms(
        coefficients=mask / mask.sum(),
        advantages=torch.tensor([0.5, -1.5, 1.0, -0.5]).repeat_interleave(LENGTHS),
        weights=1.0 + 0.1 * (torch.rand(n, generator=generator) < 0.1),
        old_logprobs=policy,
        rollout_logprobs=engine.masked_fill(~mask, torch.nan),
        reference_logprobs=policy + 0.1 * torch.randn(n, generator=generator),
        sample_ids=torch.arange(4).repeat_interleave(LENGTHS),
    )
    config = AlgorithmConfig.model_validate({"correction": correction, "kl": "k3", "kl_coef": 0.1})
    return terms, policy, config


def evaluate(
    terms: TokenTerms, logprobs: Tensor, config: AlgorithmConfig, span: slice = EVERYTHING
) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, its gradient by log-prob, and the statistics by name."""
    leaf = logprobs[span].clone().requires_grad_()
    objective = PolicyObjective(terms, config)
    loss, stats = objective(TokenScores(leaf, *torch.zeros(3, len(leaf))), span)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.item(), gradient, dict(zip(objective.stat_names, stats.tolist(), strict=True))


every_correction = pytest.mark.parametrize("correction", CORRECTIONS)


@every_correction
def test_a_single_update_needs_no_scores_from_before_it(correction):
    """The forward pass of the update is the policy that starts the step."""
    terms, policy, config = tokens(correction)
    loss, gradient, stats = evaluate(terms, policy, config)
    itself = evaluate(replace(terms, old_logprobs=None), policy, config)
    assert (loss, stats) == (itself[0], itself[2])
    assert torch.equal(gradient, itself[1])


@every_correction
def test_the_factor_multiplies_the_policy_gradient_and_not_the_kl(correction):
    terms, policy, config = tokens(correction)
    assert terms.rollout_logprobs is not None
    factor = correct(
        policy - terms.rollout_logprobs,
        terms.sample_ids,
        terms.coefficients > 0,
        config.correction,
    ).weights
    plain = replace(terms, rollout_logprobs=None)
    kl_alone = replace(plain, advantages=torch.zeros_like(policy))
    _, gradient, _ = evaluate(terms, policy, config)
    _, uncorrected, _ = evaluate(plain, policy, config)
    _, of_kl, _ = evaluate(kl_alone, policy, config)
    torch.testing.assert_close(gradient, factor * (uncorrected - of_kl) + of_kl)


@every_correction
def test_later_updates_are_corrected_as_the_first(correction):
    """The ratio to the engine is that of the policy that starts the step; PPO's ratio goes on."""
    terms, policy, config = tokens(correction)
    _, _, first = evaluate(terms, policy, config)
    _, _, second = evaluate(terms, policy + 0.3, config)
    for name in ("corrected", "correction"):
        assert first[name] == second[name]
    assert second["clip_high"] > first["clip_high"] == 0


@every_correction
def test_micro_batches_add_up(correction):
    terms, policy, config = tokens(correction)
    loss, gradient, stats = evaluate(terms, policy, config)
    parts = [evaluate(terms, policy, config, span) for span in (slice(0, 13), slice(13, 50))]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)
    for name, value in stats.items():
        assert sum(part[2][name] for part in parts) == pytest.approx(value, rel=1e-6)


def test_what_is_dropped_stays_in_the_denominator():
    """Dropping changes no other token's gradient, and is counted."""
    terms, policy, config = tokens({"kind": "mis", "low": 0.6, "high": 1.5})
    _, gradient, stats = evaluate(terms, policy, config)
    _, uncorrected, without = evaluate(replace(terms, rollout_logprobs=None), policy, config)
    changed = (gradient != uncorrected).sum().item()
    assert 0 < changed == stats["corrected"] < stats["loss_tokens"]
    assert stats["correction"] == stats["loss_tokens"] - stats["corrected"]
    assert (without["corrected"], without["correction"]) == (0, without["loss_tokens"])


def bonus_of(entropies: Tensor, mask: Tensor, coef: float) -> tuple[float, Tensor]:
    """What an entropy bonus adds to the loss, and its gradient by the entropies."""
    n = len(mask)
    zeros = torch.zeros(n)
    terms = TokenTerms(mask / mask.sum(), zeros, zeros, zeros, None, None, torch.arange(n))
    objective = PolicyObjective(terms, AlgorithmConfig(entropy_coef=coef))
    assert objective.differentiates_entropy == (coef > 0)
    leaf = entropies.clone().requires_grad_()
    scores = TokenScores(zeros.clone().requires_grad_(), leaf, zeros, zeros)
    loss, _ = objective(scores, EVERYTHING)
    return loss.item(), torch.autograd.grad(loss, leaf)[0]


def test_an_entropy_bonus_is_the_mean_entropy_of_what_counts():
    """L - beta agg(H), 0.25 to 0.249021 with beta = 0.001."""
    entropies = torch.tensor([0.1, 2.0, 0.5, 0.05, 1.0, 0.2, 3.0, 0.0])
    mask = torch.arange(8) < 7
    loss, gradient = bonus_of(entropies, mask, coef=0.001)
    assert 0.25 + loss == pytest.approx(0.249021, abs=5e-7)
    torch.testing.assert_close(gradient, -0.001 * mask / 7)


def test_without_a_coefficient_no_entropy_is_differentiated():
    loss, gradient = bonus_of(torch.ones(4), torch.ones(4, dtype=torch.bool), coef=0.0)
    assert loss == 0
    assert not gradient.any()
