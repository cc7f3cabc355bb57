"""The objective: what multiplies what, and what a correction of the mismatch may change."""

from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_stare.algorithms.chain import first_credit
from megatron_stare.algorithms.config import AlgorithmConfig
from megatron_stare.algorithms.corrections import Correction
from megatron_stare.algorithms.hooks import Credit, Step, Update
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import OLD, REFERENCE, ROLLOUT
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.algorithms.terms.clip import Clip
from megatron_stare.algorithms.terms.entropy import Entropy
from megatron_stare.ops.partials import TokenScores
from megatron_stare.types import TokenBatch

CORRECTIONS = [
    {"tis": {}},
    {"icepop": {"low": 0.6, "high": 1.5}},
    {"mis": {"low": 0.6, "high": 1.5}},
    {"tis": {"level": "sequence"}},
    {"mis": {"level": "geometric", "low": 0.9, "high": 1.1}},
]
LENGTHS = torch.tensor([1, 12, 30, 7])
EVERYTHING = slice(None)


class Case:
    """Four samples; some tokens are under the mask, and the engine knows nothing of those."""

    def __init__(self, *links: Any, **facts: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        n = int(LENGTHS.sum())
        self.policy = -torch.empty(n).exponential_(generator=generator)
        mask = torch.rand(n, generator=generator) < 0.8
        engine = self.policy + 0.5 * torch.randn(n, generator=generator)
        weights = 1.0 + 0.1 * (torch.rand(n, generator=generator) < 0.1)
        reference = self.policy + 0.1 * torch.randn(n, generator=generator)
        terms = [{"kl": {"coef": 0.1}}]
        self.method = AlgorithmConfig.model_validate({"links": ["grpo", *links], "terms": terms})
        self.step = step_of(mask, LENGTHS)
        zeros = torch.zeros(n)
        self.step.facts[OLD] = TokenScores(self.policy, zeros, zeros, zeros)
        self.step.facts[REFERENCE] = TokenScores(reference, zeros, zeros, zeros)
        self.step.facts[ROLLOUT] = engine.masked_fill(~mask, torch.nan)
        advantages = torch.tensor([0.5, -1.5, 1.0, -0.5]).repeat_interleave(LENGTHS)
        credit = first_credit(self.method, self.step).with_advantages(advantages)
        self.credit = credit.scaled(weights)

    def evaluate(
        self, logprobs: Tensor, span: slice = EVERYTHING, credit: Credit | None = None
    ) -> tuple[float, Tensor, dict[str, float]]:
        """Loss, its gradient by log-prob, and the statistics by name."""
        leaf = logprobs[span].clone().requires_grad_()
        objective = objective_of(self.method, self.step, credit or self.credit)
        loss, stats = objective(TokenScores(leaf, *torch.zeros(3, len(leaf))), span)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.item(), gradient, dict(zip(objective.stat_names, stats.tolist(), strict=True))

    def report(self) -> dict[str, float]:
        """Of the correction."""
        (link,) = self.method.late
        return dict(link.report(self.credit, self.step, None))


def objective_of(method: Method, step: Step, credit: Credit) -> MethodObjective:
    """Of the step's one update."""
    (everyone,) = step.updates
    return MethodObjective.of(method, step, Update(everyone, credit))


def step_of(mask: Tensor, lengths: Tensor) -> Step:
    """A step of which nothing is measured."""
    batch = TokenBatch(torch.zeros(len(mask)), torch.zeros_like(lengths), lengths, mask)
    index = torch.arange(len(mask))
    updates = [list(range(len(batch)))]
    return Step(1, 0.1, batch, index, batch.sample_ids, mask, updates)


every_correction = pytest.mark.parametrize("correction", CORRECTIONS)


@every_correction
def test_a_single_update_needs_no_scores_from_before_it(correction):
    """The forward pass of the update is the policy that starts the step."""
    case = Case(correction)
    loss, gradient, stats = case.evaluate(case.policy)
    del case.step.facts[OLD]
    itself = case.evaluate(case.policy)
    assert (loss, stats) == (itself[0], itself[2])
    assert torch.equal(gradient, itself[1])


@every_correction
def test_the_factor_multiplies_the_policy_gradient_and_not_the_kl(correction):
    case, plain = Case(correction), Case()
    (link,) = case.method.late
    assert isinstance(link, Correction)
    factor = link.apply(plain.credit, case.step, None).weights / plain.credit.weights
    nothing = plain.credit.with_advantages(torch.zeros_like(case.policy))
    _, gradient, _ = case.evaluate(case.policy)
    _, uncorrected, _ = plain.evaluate(case.policy)
    _, of_kl, _ = plain.evaluate(case.policy, credit=nothing)
    torch.testing.assert_close(gradient, factor * (uncorrected - of_kl) + of_kl)


@every_correction
def test_later_updates_are_corrected_as_the_first(correction):
    """The ratio to the engine is that of the policy that starts the step; PPO's ratio goes on."""
    case, plain = Case(correction), Case()
    moved = case.policy + 0.3
    (link,) = case.method.late
    factor = link.apply(plain.credit, case.step, None).weights / plain.credit.weights
    _, gradient, second = case.evaluate(moved)
    _, uncorrected, _ = plain.evaluate(moved)
    nothing = plain.credit.with_advantages(torch.zeros_like(moved))
    _, of_kl, _ = plain.evaluate(moved, credit=nothing)
    torch.testing.assert_close(gradient, factor * (uncorrected - of_kl) + of_kl)
    _, _, first = case.evaluate(case.policy)
    assert second["loss/clip_high_share"] > first["loss/clip_high_share"] == 0


@every_correction
def test_micro_batches_add_up(correction):
    case = Case(correction)
    loss, gradient, stats = case.evaluate(case.policy)
    parts = [case.evaluate(case.policy, span) for span in (slice(0, 13), slice(13, 50))]
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)
    for name, value in stats.items():
        assert sum(part[2][name] for part in parts) == pytest.approx(value, rel=1e-6)


def test_what_is_dropped_stays_in_the_denominator():
    """Dropping changes no other token's gradient, and is counted."""
    case = Case({"mis": {"low": 0.6, "high": 1.5}})
    _, gradient, stats = case.evaluate(case.policy)
    _, uncorrected, _ = Case().evaluate(case.policy)
    changed, counted, report = (
        int((gradient != uncorrected).sum()),
        stats["loss_tokens/0"],
        case.report(),
    )
    assert 0 < changed < counted
    assert report["mismatch/corrected_share"] == pytest.approx(changed / counted)
    assert report["mismatch/correction_mean"] == pytest.approx(1 - changed / counted)


@pytest.mark.parametrize("length", [1, 2])
def test_an_idle_micro_batch_adds_nothing(length):
    """A schedule may need one more than a rank has samples."""
    method = Method(policy={"clip": Clip()})
    step = step_of(torch.ones(length, dtype=torch.bool), torch.tensor([length]))
    objective = objective_of(method, step, first_credit(method, step))
    scores = TokenScores(*torch.zeros(4, 0))
    loss, stats = objective(scores, slice(length, length))
    assert (loss.item(), stats.tolist()) == (0.0, [0.0] * 4)


class Forgetful(Correction):
    """Leaves out what a correction would weigh."""

    @property
    def band(self) -> tuple[float, float]:
        """Of nothing."""
        return 0.0, 1.0

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Where denominators are known already."""
        return credit._replace(counted=credit.counted & (step[OLD].logprobs > -1))


def test_what_runs_in_micro_batches_cannot_change_what_is_counted():
    case = Case()
    links = {**case.method.links, "forgetful": Forgetful()}
    case.method = case.method.model_copy(update={"links": links})
    with pytest.raises(ValueError, match="Forgetful changes what is counted: its scope has to be"):
        case.evaluate(case.policy)


def bonus_of(entropies: Tensor, mask: Tensor, *terms: Entropy) -> tuple[float, Tensor]:
    """What an entropy bonus adds to the loss, and its gradient by the entropies."""
    n = len(mask)
    zeros = torch.zeros(n)
    method = Method(policy={"clip": Clip()}, terms=dict(zip(["entropy"], terms, strict=False)))
    assert method.differentiates_entropy == bool(terms)
    step = step_of(mask, torch.tensor([n]))
    objective = objective_of(method, step, first_credit(method, step))
    leaf = entropies.clone().requires_grad_()
    scores = TokenScores(zeros.clone().requires_grad_(), leaf, zeros, zeros)
    loss, _ = objective(scores, EVERYTHING)
    return loss.item(), torch.autograd.grad(loss, leaf, materialize_grads=True)[0]


def test_an_entropy_bonus_is_the_mean_entropy_of_what_counts():
    """L - beta agg(H), 0.25 to 0.249021 with beta = 0.001."""
    entropies = torch.tensor([0.1, 2.0, 0.5, 0.05, 1.0, 0.2, 3.0, 0.0])
    mask = torch.arange(8) < 7
    loss, gradient = bonus_of(entropies, mask, Entropy(coef=0.001))
    assert 0.25 + loss == pytest.approx(0.249021, abs=5e-7)
    torch.testing.assert_close(gradient, -0.001 * mask / 7)


def test_without_the_term_no_entropy_is_differentiated():
    loss, gradient = bonus_of(torch.ones(4), torch.ones(4, dtype=torch.bool))
    assert loss == 0
    assert not gradient.any()
