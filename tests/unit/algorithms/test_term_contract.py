"""The contract of every term of the table: what it may depend on, and its gradient.

A term sees whole samples of a micro-batch. It must not know which others are in it, in which order
they are, or what stands under the mask; its gradient is that of its loss, or of what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_stare.algorithms.chain import first_credit
from megatron_stare.algorithms.hooks import Live, Step, Term, Update
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import OLD, REFERENCE
from megatron_stare.algorithms.objective import MethodObjective
from megatron_stare.algorithms.table import TERMS
from megatron_stare.algorithms.terms.kl_cov_penalty import KlCovPenalty
from megatron_stare.ops.partials import TokenScores
from tests.contract import Batch, random_batch

every_term = pytest.mark.parametrize("term", [kind() for kind in TERMS.values()], ids=[*TERMS])
EVERYONE = list(range(20))
STEP = 1e-6
RESTING = (KlCovPenalty,)
"""Terms without a gradient on the policy that starts a step."""


@dataclass(frozen=True)
class Learned:
    """The loss of a batch, its gradients by log-prob and entropy `[n]`, and the sums of shares."""

    loss: float
    gradients: Tensor
    stats: Tensor


def moved(batch: Batch, by: float = 1.0) -> Tensor:
    """Log-probs of the policy that learns, float64 `[R]`: those before the step, and noise."""
    generator = torch.Generator().manual_seed(7)
    chosen = batch.rollouts.loss_mask.nonzero()[:, 0]
    logprobs = batch.logprobs.double()
    noise = torch.randn(len(chosen), generator=generator, dtype=torch.float64)
    return logprobs.index_add(0, chosen, by * noise)


def opened(term: Term, batch: Batch, samples: Sequence[int]) -> Step:
    """A step that knows what the term declares."""
    step = batch.step(1, samples, None)
    for need in step.facts.keys() - term.needs:
        del step.facts[need]
    return step


def objective_of(term: Term, batch: Batch, samples: Sequence[int] = EVERYONE) -> MethodObjective:
    """The term alone, on advantages of both signs and weights between 0 and 2."""
    method = Method(policy={"term": term}, aggregation="seq-mean-token-mean")
    step = opened(term, batch, samples)
    rewards = batch.rollouts.rewards.double()
    advantages = step.of_samples(torch.where(rewards > 0, 1.5, -0.5))
    generator = torch.Generator().manual_seed(11)
    mask = batch.rollouts.loss_mask
    weights = torch.ones(len(mask), dtype=torch.float64)
    weights[mask] = 2 * torch.rand(int(mask.sum()), generator=generator, dtype=torch.float64)
    credit = first_credit(method, step, torch.float64).with_advantages(advantages)
    objective = MethodObjective.of(
        method, step, Update(step.updates[0], credit.scaled(weights[step.index]))
    )
    logprobs, entropies = batch.logprobs.double(), batch.entropies.double()
    nothing = torch.zeros(len(step.index), dtype=torch.float64)
    # As a run of several updates a step has it.
    step.facts[OLD] = TokenScores(logprobs[step.index], entropies[step.index], nothing, nothing)
    return objective


def learn(objective: MethodObjective, batch: Batch, current: Tensor, span: slice) -> Learned:
    """A micro-batch of the objective."""
    index = objective.step.index[span]
    leaf = torch.stack([current[index], batch.entropies[index].double()]).requires_grad_()
    nothing = torch.zeros(len(index), dtype=torch.float64)
    loss, stats = objective(TokenScores(leaf[0], leaf[1], nothing, nothing), span)
    (gradients,) = torch.autograd.grad(loss, leaf)
    return Learned(loss.item(), gradients, stats)


def learn_all(term: Term, batch: Batch, current: Tensor | None = None) -> Learned:
    current = moved(batch) if current is None else current
    return learn(objective_of(term, batch), batch, current, slice(None))


def assert_close(found: Learned, expected: Learned) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.stats.double(), expected.stats.double(), rtol=1e-6, atol=1e-6)


# The contract


def masked_tokens_change_nothing(term: Term) -> None:
    batch = random_batch(seed=2)
    more, where = batch.with_masked_tokens(seed=3)
    plain, among = learn_all(term, batch), learn_all(term, more)
    under = torch.ones(len(more.logprobs), dtype=torch.bool)
    under[where[batch.rollouts.loss_mask]] = False
    assert not among.gradients[:, under].any()
    assert_close(Learned(among.loss, among.gradients[:, where], among.stats), plain)


def micro_batches_add_up(term: Term) -> None:
    """Of whole samples; one of them is all under the mask, and one micro-batch is empty."""
    batch = random_batch(seed=4)
    objective, current = objective_of(term, batch), moved(batch)
    ends = [0, *batch.rollouts.response_lengths.cumsum(0).tolist()]
    spans = [slice(ends[a], ends[b]) for a, b in ((0, 1), (1, 8), (8, 8), (8, 20))]
    parts = [learn(objective, batch, current, span) for span in spans]
    assert parts[0].loss == parts[2].loss == 0
    whole = Learned(
        sum(part.loss for part in parts),
        torch.cat([part.gradients for part in parts], dim=1),
        torch.stack([part.stats for part in parts]).sum(0),
    )
    assert_close(whole, learn_all(term, batch))


def the_order_of_samples_does_not_matter(term: Term) -> None:
    batch = random_batch(seed=5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(6)).tolist()
    shuffled = objective_of(term, batch, order)
    found = learn(shuffled, batch, moved(batch), slice(None))
    plain = learn_all(term, batch)
    index = shuffled.step.index
    assert_close(found, Learned(plain.loss, plain.gradients[:, index], plain.stats))


def it_reads_what_it_declares(term: Term) -> None:
    """`prepare` knows nothing else, and `loss` has its view."""
    term.prepare(opened(term, random_batch(seed=6), EVERYONE))


def gradients_are_finite(term: Term) -> None:
    """On the policy that starts the step, where ratios are 1, and far from it."""
    batch = random_batch(seed=7)
    for by in (0.0, 100.0, -100.0):
        learned = learn_all(term, batch, moved(batch, by))
        assert math.isfinite(learned.loss), by
        assert learned.gradients.isfinite().all(), by
    assert learn_all(term, batch, moved(batch, 0.1)).gradients.any()
    rests = not learn_all(term, batch, moved(batch, 0.0)).gradients.any()
    assert rests == isinstance(term, RESTING)


def the_gradient_is_that_of_the_loss(term: Term) -> None:
    """By central differences in float64, of log-probs and entropies both."""
    batch = random_batch(seed=8, num_groups=1)
    objective, current = objective_of(term, batch, range(4)), moved(batch)
    expected = learn(objective, batch, current, slice(None)).gradients
    slopes = torch.zeros_like(expected)
    nothing = torch.zeros_like(current)
    for row in range(2):
        for token in range(len(current)):
            sides = []
            for sign in (1, -1):
                values = torch.stack([current, batch.entropies.double()])
                values[row, token] += sign * STEP
                scores = TokenScores(values[0], values[1], nothing, nothing)
                sides.append(objective(scores, slice(None))[0].item())
            slopes[row, token] = (sides[0] - sides[1]) / (2 * STEP)
    torch.testing.assert_close(slopes, expected, rtol=1e-5, atol=1e-7)


Contract = Callable[[Term], None]
CONTRACT: list[Contract] = [
    masked_tokens_change_nothing,
    micro_batches_add_up,
    the_order_of_samples_does_not_matter,
    it_reads_what_it_declares,
    gradients_are_finite,
]
names = [promise.__name__ for promise in CONTRACT]


@pytest.mark.parametrize("promise", CONTRACT, ids=names)
@every_term
def test_every_term_keeps_the_contract(term, promise):
    promise(term)


# Its gradient, where a part of the loss is a constant: factors of -weight A grad logprob, by r


def sample_ratios(d: Tensor, live: Live) -> Tensor:
    """exp of the mean d of each sample, token by token."""
    return torch.stack(
        [d[(live.sample_ids == i) & live.credit.counted].mean().exp() for i in live.sample_ids]
    )


def gspo_token(live: Live) -> Tensor:
    s = sample_ratios(live.logprobs - live.old_logprobs, live)
    is_good = live.credit.advantages > 0
    return torch.where(is_good & (s > 1.0004) | ~is_good & (s < 0.9997), 0.0, s)


def cispo(live: Live) -> Tensor:
    return (live.logprobs - live.old_logprobs).exp().clamp(max=1.2)


def aspo(live: Live) -> Tensor:
    r = (live.logprobs - live.old_logprobs).exp()
    good = torch.where(r > 1.2, 0.0, (1 / r).clamp(max=3.0))
    bad = torch.where(r < 0.8, 0.0, r.clamp(max=3.0))
    return torch.where(live.credit.advantages > 0, good, bad)


def ce_gppo(live: Live) -> Tensor:
    r = (live.logprobs - live.old_logprobs).exp()
    good = r.clamp(max=1.2)
    bad = torch.where(r < 0.8, 0.75 * 0.8, torch.where(r > 10, 0.0, r))
    return torch.where(live.credit.advantages > 0, good, bad)


def dgpo(live: Live) -> Tensor:
    r = (live.logprobs - live.old_logprobs).exp()
    good = torch.where(r > 1.2, (1.2 * r).sqrt(), r)
    bad = torch.where(r < 0.8, r**2 / 0.8, r)
    return torch.where(live.credit.advantages > 0, good, bad)


FACTORS: dict[str, Callable[[Live], Tensor]] = {
    "gspo_token": gspo_token,
    "cispo": cispo,
    "aspo": aspo,
    "ce_gppo": ce_gppo,
    "dgpo": dgpo,
}


@pytest.mark.parametrize("name", [name for name in TERMS if name not in FACTORS])
def test_its_gradient_is_that_of_its_loss(name):
    the_gradient_is_that_of_the_loss(TERMS[name]())


@pytest.mark.parametrize("name", FACTORS)
def test_its_gradient_is_what_its_formula_says(name):
    batch = random_batch(seed=9)
    objective, current = objective_of(TERMS[name](), batch), moved(batch)
    learned = learn(objective, batch, current, slice(None))
    step, credit = objective.step, objective.credit
    live = Live(current, current, step[OLD].logprobs, step.sample_ids, credit)
    factors = -credit.weights * credit.advantages * FACTORS[name](live)
    (mean,) = objective.means
    expected = (mean.coefficients * factors).masked_fill(~credit.counted, 0.0)
    torch.testing.assert_close(learned.gradients[0], expected, rtol=1e-6, atol=1e-9)
    assert not learned.gradients[1].any()


# Faults that each promise finds


class Faulty(Term[Any]):
    """A term with a fault."""

    fault: str
    """Which."""

    def prepare(self, step: Step) -> Any:
        """Perhaps of something that is not declared."""
        return step[REFERENCE].logprobs if self.fault == "undeclared" else None

    def loss(self, live: Live, fields: Any) -> tuple[Tensor, Sequence[Tensor]]:
        """Wrong in one way."""
        lp = live.logprobs
        if self.fault == "micro-batch":
            lp = lp * lp.mean()
        if self.fault == "mask":
            members = live.sample_ids[:, None] == live.sample_ids
            lp = (members * lp).sum(1) / members.sum(1)
        if self.fault == "order":
            lp = lp * torch.arange(len(lp))
        if self.fault == "unbounded":
            lp = (live.old_logprobs - lp).exp().exp()
        if self.fault == "constant":
            lp = lp.detach() * lp
        return -lp, ()


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("mask", masked_tokens_change_nothing),
        ("micro-batch", micro_batches_add_up),
        ("order", the_order_of_samples_does_not_matter),
        ("undeclared", it_reads_what_it_declares),
        ("unbounded", gradients_are_finite),
        ("constant", the_gradient_is_that_of_the_loss),
    ],
)
def test_a_fault_is_found(fault, promise):
    with pytest.raises((AssertionError, KeyError)):
        promise(Faulty(fault=fault))


def test_a_term_without_a_fault_keeps_all_of_it():
    for promise in (*CONTRACT, the_gradient_is_that_of_the_loss):
        promise(Faulty(fault="none"))
