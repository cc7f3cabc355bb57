"""What an update minimises: the sum of a method's terms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from megatron_stare.algorithms.aggregation import token_coefficients
from megatron_stare.algorithms.hooks import Credit, Live, Step
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import OLD
from megatron_stare.ops.partials import TokenScores


@dataclass(frozen=True, slots=True)
class MethodObjective:
    """The loss of a micro-batch, sum_t coefficient_t * (the terms' losses of t).

    Links that wait for the micro-batch's log-probs run first. Constants are `[r]`, of this rank's
    tokens: `fields` what each term has prepared, `coefficients` what a token weighs in the mean.
    """

    method: Method
    step: Step
    credit: Credit
    fields: tuple[Any, ...]
    coefficients: Tensor

    @classmethod
    def of(cls, method: Method, step: Step, credit: Credit) -> MethodObjective:
        """Of a step's share. All data-parallel ranks call it."""
        fields = tuple(term.prepare(step) for term in method.loss_terms)
        coefficients = token_coefficients(method.aggregation, credit, step)
        return cls(method, step, credit, fields, coefficients)

    @property
    def stat_names(self) -> tuple[str, ...]:
        """What is counted, and the sums of the terms' shares over it."""
        return "loss_tokens", *(name for term in self.method.loss_terms for name in term.shares)

    @property
    def differentiates_entropy(self) -> bool:
        """Whether a term does."""
        return self.method.differentiates_entropy

    def at(self, tokens: slice) -> MethodObjective:
        """Of a run of tokens that holds whole samples."""
        return replace(
            self,
            step=self.step.at(tokens),
            credit=self.credit.at(tokens),
            fields=tuple(None if part is None else part[tokens] for part in self.fields),
            coefficients=self.coefficients[tokens],
        )

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch and the sums behind its shares."""
        part = self.at(tokens)
        losses, counted, shares = part.token_losses(scores)
        stats = [counted.sum(), *(share[counted].sum() for share in shares)]
        return (part.coefficients * losses).sum(), torch.stack(stats)

    def token_losses(self, scores: TokenScores) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The loss of each token before any mean, which are counted, and the terms' shares."""
        # A single update scores its tokens itself, under the weights before it.
        old = self.step.facts.setdefault(OLD, TokenScores(*(part.detach() for part in scores)))
        credit = self.credit
        for link in self.method.late:
            credit = link.apply(credit, self.step, None)
            if credit.counted is not self.credit.counted:  # The batch's denominators are fixed.
                name = type(link).__name__
                raise ValueError(f"{name} changes what is counted: its scope has to be 'batch'")
        sample_ids = self.step.sample_ids
        live = Live(scores.logprobs, scores.entropies, old.logprobs, sample_ids, credit)
        parts = zip(self.method.loss_terms, self.fields, strict=True)
        (total, shares), *further = (term.loss(live, fields) for term, fields in parts)
        shares = [*shares]
        for losses, more in further:
            total = total + losses
            shares += more
        return total, credit.counted, shares
