"""A step of any method in float64, dense and one sample at a time.

Scores, denominators, aggregation, gradients and updates are the reference's own, in plain torch and
transformers (tests/reference_policy.py). What a method makes of the scores is an oracle's to say:

    reference_formulas.HandWritten   GRPO, STARE, TIS, IcePop, KL, entropy, by the papers' formulas
    reference_parts.PartsInFloat64   any method: its own parts in one process, in float64

A float32 score is a little wrong, and a method may magnify that: two tokens whose order decides, a
division by how little entropies differ. With `noise`, in nats, a step is decided a second time from
scores that are wrong by so much, each by itself, and `Slack` is how far the outcome moves.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from megatron_stare.algorithms.hooks import Need
from megatron_stare.algorithms.needs import (
    DEMONSTRATED,
    GUIDED,
    OLD,
    PROMPT_LOGPROBS,
    REFERENCE,
    ROLLOUT,
    UNTRUNCATED,
    HiddenRanks,
    MinPLogprobs,
    PromptLogprobs,
    RankDynamics,
    facts_of_turns,
)
from megatron_stare.algorithms.updates import Epochs
from megatron_stare.config.commands import TrainConfig
from megatron_stare.ops.partials import TokenScores
from megatron_stare.types import RolloutBatch
from tests.reference_policy import ReferencePolicy, Sample, samples_of

STARTING_SCALE = 1.01
"""The starting weights of a run whose policy has moved since: those of its folder times this."""

Facts = dict[Need[Any], Any]


class Ranked(NamedTuple):
    """What STARE ranks and decides.

    positive, negative  int64, token ids of L+ and L-, ascending
    decision            gate on, w, m
    """

    positive: Tensor
    negative: Tensor
    decision: tuple[bool, float, float]


@dataclass(frozen=True)
class Slack:
    """How far an outcome moves with scores that are a little wrong.

    credit, report  by name, the largest difference of any token; of each number
    loss            the sum of what its summands change
    gradient        by log-probs and entropies, as a share of its norm
    """

    credit: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, float] = field(default_factory=dict)
    loss: float = 0.0
    gradient: float = 0.0


@dataclass(frozen=True)
class StepOutcome:
    """Everything of a step that no layout may change.

    logprobs, entropies   [R]    under the weights before the step, in the batch's order; 0 where
                                 the loss mask is
    ranked                       None of an oracle that ranks nothing
    credit                [R]    by name, and what links report; None of one that has no links
    losses, grad_norms           of each update
    gradients                    of the last update, clipped, by Hugging Face name
    weights                      after the step, by Hugging Face name
    """

    logprobs: Tensor
    entropies: Tensor
    ranked: Ranked | None
    credit: dict[str, Tensor] | None
    report: Mapping[str, float]
    losses: list[float]
    grad_norms: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    slack: Slack = Slack()


class Mean(NamedTuple):
    """A kind of mean, and what it is over, bool `[R]`."""

    kind: str
    counted: Tensor


class Decision(Protocol):
    """What an oracle makes of a step; each of its means is over a loss of each token."""

    means: Sequence[Mean]
    ranked: Ranked | None
    credit: dict[str, Tensor] | None
    report: Mapping[str, float]

    def losses(self, here: slice, logprobs: Tensor, entropies: Tensor) -> Sequence[Tensor]:
        """Of the response tokens of a sample, `[n]`, one tensor a mean."""
        ...


class Oracle(Protocol):
    """Says what a method makes of a batch, step after step."""

    def decide(self, batch: RolloutBatch, facts: Facts) -> Decision:
        """Of the next step; what is per token in `facts` is of the whole batch, `[R]`."""
        ...


class ReferenceTrainer:
    """A policy in float64 that takes one step after another, as its oracle says."""

    def __init__(
        self, policy: ReferencePolicy, config: TrainConfig, oracle: Oracle, *, noise: float = 0.0
    ) -> None:
        self.policy, self.config, self.oracle, self.noise = policy, config, oracle, noise
        self.generator = torch.Generator().manual_seed(0)

    def step(self, batch: RolloutBatch, scores: Facts | None = None) -> StepOutcome:
        """Score, decide, and update as often as the config says.

        Args:
            scores: what `measure` has said of the batch under these weights.
        """
        samples, mask = samples_of(batch), batch.loss_mask
        scores = self.measure(batch, self.config.needs) if scores is None else scores
        facts = {**scores, **_given(batch)}
        other = copy.deepcopy(self.oracle) if self.noise else None
        decision = self.oracle.decide(batch, facts)
        wrong = facts if other is None else self._wrong(facts)
        moved = decision if other is None else other.decide(batch, wrong)
        shift = wrong[OLD].logprobs - facts[OLD].logprobs
        losses, grad_norms, moves = [], [], [(0.0, 0.0)]
        for ids in self._updates(batch):
            weights, others = (_coefficients(d.means, batch, ids) for d in (decision, moved))
            loss, live = self._backward([samples[i] for i in ids], mask, decision, weights)
            losses.append(loss)
            grad_norms.append(self.policy.clip_and_step())
            if other is not None:
                # The policy before the step and the first that learns are wrong alike.
                found = [_by_scores(decision, weights, *row, 0.0) for row in live]
                shift = shift if len(losses) == 1 else self._errors(mask)
                near = [_by_scores(moved, others, *row, shift[row[0]]) for row in live]
                moves.append(_move(found, near))
        return StepOutcome(
            logprobs=facts[OLD].logprobs,
            entropies=facts[OLD].entropies,
            ranked=decision.ranked,
            credit=decision.credit,
            report=decision.report,
            losses=losses,
            grad_norms=grad_norms,
            gradients=self.policy.gradients(),
            weights=self.policy.weights(),
            slack=_slack(decision, moved, moves),
        )

    def _updates(self, batch: RolloutBatch) -> list[list[int]]:
        """Samples of each update: the batch's parts in turn, as many times as the method says."""
        (updates,) = self.config.algorithm.updates.values()
        assert isinstance(updates, Epochs), "the reference knows no other updates"
        parts = _parts(batch.group_ids.tolist(), self.config.train.updates_per_step)
        return parts * updates.count

    @torch.no_grad()
    def measure(self, batch: RolloutBatch, needs: Collection[Need[Any]]) -> Facts:
        """What policies say; of tokens under the mask they are not asked."""
        scores: Facts = {OLD: self._scores(batch)}
        if REFERENCE in needs:
            with self.policy.scaled(STARTING_SCALE):
                scores[REFERENCE] = self._scores(batch)
        if PROMPT_LOGPROBS in needs:
            scores[PROMPT_LOGPROBS] = PromptLogprobs([self._prompt(s) for s in samples_of(batch)])
        for need in needs:
            if isinstance(need, MinPLogprobs):
                parts = [self.policy.min_p(sample, need.kappa) for sample in samples_of(batch)]
                scores[need] = torch.cat(parts) * batch.loss_mask
            if isinstance(need, HiddenRanks):
                scores[need] = RankDynamics(self._ranks(batch, need))
        return scores

    def _ranks(self, batch: RolloutBatch, need: HiddenRanks) -> Tensor:
        rows = [
            self.policy.rank_dynamics(s, batch.loss_mask[s.response], need.stride, need.longest)
            for s in samples_of(batch)
        ]
        return torch.stack(rows)

    def _prompt(self, sample: Sample) -> Tensor:
        """Log-probs of a prompt's tokens but the first."""
        prompt = sample.token_ids[: sample.prompt_length]
        return self.policy.score(replace(sample, token_ids=prompt, prompt_length=1))[0]

    def _scores(self, batch: RolloutBatch) -> TokenScores:
        scores = [self.policy.score(sample) for sample in samples_of(batch)]
        logprobs, entropies = (torch.cat(rows) * batch.loss_mask for rows in zip(*scores))  # noqa: B905
        return TokenScores(logprobs, entropies, torch.zeros_like(logprobs), entropies)

    def _backward(
        self,
        samples: Sequence[Sample],
        mask: Tensor,
        decision: Decision,
        coefficients: Sequence[Tensor],
    ) -> tuple[float, list[tuple[slice, Tensor, Tensor]]]:
        """Fill the gradients; returns the loss, and each sample's scores, detached."""
        self.policy.model.zero_grad()
        total, live = 0.0, []
        for sample in samples:
            here = sample.response
            logprobs, entropies = (part * mask[here] for part in self.policy.score(sample))
            losses = decision.losses(here, logprobs, entropies)
            loss = sum((c[here] * each).sum() for c, each in zip(coefficients, losses, strict=True))
            loss.backward()
            total += loss.item()
            live.append((here, logprobs.detach(), entropies.detach()))
        return total, live

    def _wrong(self, facts: Facts) -> Facts:
        """What policies say, with an error on each number."""
        return {
            need: TokenScores(*(part + self._errors(part != 0) for part in value))
            if isinstance(value, TokenScores)
            else value
            for need, value in facts.items()
        }

    def _errors(self, where: Tensor) -> Tensor:
        """One a token, of either sign."""
        draw = torch.rand(where.shape, generator=self.generator, dtype=torch.float64)
        return self.noise * (2 * draw - 1) * where


def _given(batch: RolloutBatch) -> Facts:
    """What comes with a batch."""
    engine = batch.rollout_logprobs.double()
    demonstrated, guided = batch.tokens_of_demonstrations
    given = {ROLLOUT: engine, UNTRUNCATED: engine, DEMONSTRATED: demonstrated, GUIDED: guided}
    return {**given, **facts_of_turns(batch.judged)}


def _by_scores(
    decision: Decision,
    coefficients: Sequence[Tensor],
    here: slice,
    logprobs: Tensor,
    entropies: Tensor,
    shift: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Weighted losses of a sample's tokens `[n]`, and their gradient by log-probs and entropies."""
    leaves = [part.clone().requires_grad_() for part in (logprobs + shift, entropies + shift)]
    losses = decision.losses(here, *leaves)
    weighted = sum(c[here] * each for c, each in zip(coefficients, losses, strict=True))
    by = torch.autograd.grad(weighted.sum(), leaves, allow_unused=True, materialize_grads=True)
    return weighted.detach(), torch.cat(by)


def _move(
    found: Sequence[tuple[Tensor, Tensor]], near: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """How far weighted losses move, and the gradient as a share of its norm."""
    (losses, by), (other_losses, other_by) = (
        (torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows]))
        for rows in (found, near)
    )
    moved = float((by - other_by).norm())
    return float((losses - other_losses).abs().sum()), moved and moved / float(by.norm())


def _slack(decision: Decision, moved: Decision, moves: Sequence[tuple[float, float]]) -> Slack:
    credit, other = decision.credit or {}, moved.credit or {}
    report = {name: abs(value - moved.report[name]) for name, value in decision.report.items()}
    return Slack(
        {name: _largest(part.double() - other[name].double()) for name, part in credit.items()},
        {name: 0.0 if value != value else value for name, value in report.items()},
        *(max(each) for each in zip(*moves)),  # noqa: B905
    )


def _largest(differences: Tensor) -> float:
    """0 where both are infinite."""
    return float(differences.nan_to_num(0.0).abs().max())


def _parts(group_ids: Sequence[int], count: int) -> list[list[int]]:
    """Samples of equal runs of groups, in batch order."""
    groups = list(dict.fromkeys(group_ids))
    size = len(groups) // count
    runs = [groups[start : start + size] for start in range(0, len(groups), size)]
    return [[i for i, group in enumerate(group_ids) if group in run] for run in runs]


def _coefficients(means: Sequence[Mean], batch: RolloutBatch, ids: Sequence[int]) -> list[Tensor]:
    return [_weights(mean.kind, mean.counted, batch, ids) for mean in means]


def _weights(kind: str, counted: Tensor, batch: RolloutBatch, ids: Sequence[int]) -> Tensor:
    """What each token of an update weighs in its loss, `[R]`; 0 elsewhere, and if not counted."""
    counted = counted & torch.isin(batch.sample_ids, torch.tensor(ids))
    if kind == "token-mean":
        return counted.double() / counted.sum().clamp(min=1)
    tokens = torch.bincount(batch.sample_ids[counted], minlength=len(batch)).double()
    samples = (tokens > 0).sum().clamp(min=1)
    if kind == "seq-mean-token-sum":
        return counted / samples
    assert kind == "seq-mean-token-mean"
    return counted / (tokens[batch.sample_ids] * samples).clamp(min=1)
