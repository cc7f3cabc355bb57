"""Any method's own parts, in float64 and in one process: the oracle of what has no other formula.

A layout is held to it for what depends on layouts. That a part is what its paper says is held by
its golden numbers, and of STARE and its kin by `reference_formulas`, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from megatron_stare.algorithms.chain import Chain, first_credit
from megatron_stare.algorithms.hooks import Credit, Live, Step, Term
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import OLD, PromptLogprobs, RankDynamics
from megatron_stare.algorithms.turns import Turns
from megatron_stare.config.commands import TrainConfig
from megatron_stare.ops.partials import TokenScores
from megatron_stare.types import RolloutBatch
from tests.reference_step import Facts, Mean


class PartsInFloat64:
    """What the links and terms of a method make of a step."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.chain = Chain(config.algorithm)
        self.number = 0

    def decide(self, batch: RolloutBatch, facts: Facts) -> _Parts:
        """The whole chain at once: nothing waits for a micro-batch."""
        self.number += 1
        method, judged = self.config.algorithm, batch.judged
        step = Step(
            number=self.number,
            progress=self.number / self.config.train.steps,
            batch=replace(judged, rewards=judged.rewards.double()),
            index=torch.arange(len(batch.loss_mask)),
            sample_ids=batch.sample_ids,
            mask=judged.loss_mask,
            updates=[range(len(batch))],
            facts={need: _as_ranked(value) for need, value in facts.items()},
            seed=self.config.run.seed,
        )
        credit, report = decided(self.chain, step, torch.float64)
        credit = with_late_links(method, credit, step)
        return _Parts(method, step, facts[OLD].logprobs, credit, report)


def _as_ranked(value: Any) -> Any:
    """Numbers of float32, in float64: statistics rank values as float32, and compare them with
    what they have ranked."""
    if isinstance(value, PromptLogprobs | RankDynamics | Turns):
        return value
    if isinstance(value, TokenScores):
        return TokenScores(*(part.float().double() for part in value))
    return value.float().double() if value.is_floating_point() else value


def decided(
    chain: Chain, step: Step, dtype: torch.dtype = torch.float32
) -> tuple[Credit, Mapping[str, float]]:
    """The credit that a chain's early links decide, and what all report; `OLD` is known."""
    credit = chain.apply(step, first_credit(chain.method, step, dtype))
    return credit, chain.report(credit, step)


def with_late_links(method: Method, credit: Credit, step: Step) -> Credit:
    """The credit after those, too, which in a run wait for a micro-batch; `[r]` each."""
    for link in method.late:
        credit = link.apply(credit, step, None)
    return Credit(*(part.expand_as(step.mask) for part in credit))


def by_name(method: Method, credit: Credit, step: Step) -> dict[str, Tensor]:
    """What links have decided of each token, `[r]`: credit, and their marks."""
    marks = [mark for link in method.links.values() for mark in link.marks]
    return {**credit._asdict(), **{mark.name: step[mark] for mark in marks}}


@dataclass(frozen=True)
class _Parts:
    """A step of `PartsInFloat64`."""

    method: Method
    step: Step
    old: Tensor
    of_tokens: Credit
    report: Mapping[str, float]
    ranked: None = None

    @property
    def credit(self) -> dict[str, Tensor]:
        """By name."""
        return by_name(self.method, self.of_tokens, self.step)

    @property
    def terms(self) -> list[list[Term[Any]]]:
        """Those that share a mean, of each mean."""
        terms = self.method.loss_terms
        shared = [term for term in terms if not term.has_own_mean]
        return [*([shared] if shared else []), *([term] for term in terms if term.has_own_mean)]

    @property
    def means(self) -> list[Mean]:
        """Over what the credit counts, or a term itself."""
        return [
            Mean(
                first.aggregation or self.method.aggregation,
                first.counted(self.of_tokens, self.step),
            )
            for first, *_ in self.terms
        ]

    def losses(self, here: slice, logprobs: Tensor, entropies: Tensor) -> list[Tensor]:
        """The sums of the terms' losses."""
        credit, sample_ids = self.of_tokens.at(here), self.step.sample_ids[here]
        live = Live(logprobs, entropies, self.old[here], sample_ids, credit)
        return [
            torch.stack([self._loss(term, live, here) for term in terms]).sum(0)
            for terms in self.terms
        ]

    def _loss(self, term: Term[Any], live: Live, here: slice) -> Tensor:
        fields = term.prepare(self.step)
        losses, _ = term.loss(live, None if fields is None else fields[here])
        return losses
