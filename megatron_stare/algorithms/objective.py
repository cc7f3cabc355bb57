"""What an update minimises: the sum of a method's terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megatron_stare.algorithms.aggregation import token_coefficients
from megatron_stare.algorithms.hooks import Credit, Live, Step, Term, Update
from megatron_stare.algorithms.method import Method
from megatron_stare.algorithms.needs import OLD
from megatron_stare.ops.partials import TokenScores

COUNT = "loss_tokens"
"""How the names of counts begin among an objective's statistics."""


class Mean(NamedTuple):
    """Terms whose losses are summed over the same tokens with the same weights.

    terms         with what each has prepared of the tokens
    counted       bool `[r]`
    coefficients  what a token weighs in the mean, float32 `[r]`; 0 where not counted
    """

    terms: Sequence[tuple[Term, Any]]
    counted: Tensor
    coefficients: Tensor

    @property
    def shares(self) -> tuple[str, ...]:
        """Metrics: means over what is counted."""
        return tuple(name for term, _ in self.terms for name in term.shares)

    def at(self, tokens: slice | Tensor) -> Mean:
        """Of some of the tokens."""
        terms = [(term, None if part is None else part[tokens]) for term, part in self.terms]
        return Mean(terms, self.counted[tokens], self.coefficients[tokens])

    def losses(self, live: Live) -> tuple[Tensor, list[Tensor]]:
        """The sum of the terms' losses of each token, and their shares of each."""
        (total, shares), *further = (term.loss(live, part) for term, part in self.terms)
        shares = [*shares]
        for losses, more in further:
            total = total + losses
            shares += more
        return total, shares


@dataclass(frozen=True, slots=True)
class MethodObjective:
    """The loss of a micro-batch: over all means, sum_t coefficient_t * (its terms' losses of t).

    Links that wait for the micro-batch's log-probs run first.
    """

    method: Method
    step: Step
    credit: Credit
    means: Sequence[Mean]

    @classmethod
    def of(cls, method: Method, step: Step, update: Update) -> MethodObjective:
        """Of this rank's tokens, in an update of some samples. All data-parallel ranks call it."""
        credit = update.credit
        if update.old is not None:
            step = replace(step, facts={**step.facts, OLD: update.old})

        def mean_of(terms: Sequence[Term]) -> Mean:
            counted = terms[0].counted(credit, step)
            kind = terms[0].aggregation or method.aggregation
            coefficients = token_coefficients(kind, counted, step, update.samples, method.sum_over)
            prepared = [(term, _prepared(term, step)) for term in terms]
            return Mean(prepared, counted, coefficients)

        own = [term for term in method.loss_terms if term.has_own_mean]
        shared = [term for term in method.loss_terms if not term.has_own_mean]
        groups = [*([shared] if shared else []), *([term] for term in own)]
        return cls(method, step, credit, [mean_of(terms) for terms in groups])

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Of each mean, how many tokens it counts, and the sums of its terms' shares over them."""
        return tuple(
            name
            for place, mean in enumerate(self.means)
            for name in (f"{COUNT}/{place}", *mean.shares)
        )

    @property
    def differentiates_entropy(self) -> bool:
        """Whether a term does."""
        return self.method.differentiates_entropy

    def at(self, tokens: slice | Tensor) -> MethodObjective:
        """Of tokens that make whole samples."""
        return replace(
            self,
            step=self.step.at(tokens),
            credit=self.credit.at(tokens),
            means=[mean.at(tokens) for mean in self.means],
        )

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch and the sums behind its shares."""
        part = self.at(tokens)
        stats: list[Tensor] = []
        total: Tensor | None = None
        for mean, (losses, shares) in zip(part.means, part.token_losses(scores), strict=True):
            loss = (mean.coefficients * losses).sum()
            total = loss if total is None else total + loss
            stats += [mean.counted.sum(), *(share[mean.counted].sum() for share in shares)]
        assert total is not None
        return total, torch.stack(stats)

    def token_losses(self, scores: TokenScores) -> list[tuple[Tensor, list[Tensor]]]:
        """Of each mean, the loss of each token before it, and its terms' shares."""
        # A single update scores its tokens itself, under the weights before it.
        old = self.step.facts.setdefault(OLD, TokenScores(*(part.detach() for part in scores)))
        sample_ids, credit = self.step.sample_ids, self.whole_credit
        live = Live(scores.logprobs, scores.entropies, old.logprobs, sample_ids, credit)
        return [mean.losses(live) for mean in self.means]

    @property
    def whole_credit(self) -> Credit:
        """The credit after the links that wait for log-probs, too, once these are known."""
        credit = self.credit
        for link in self.method.late:
            credit = link.apply(credit, self.step, None)
            if credit.counted is not self.credit.counted:  # The batch's denominators are fixed.
                name = type(link).__name__
                raise ValueError(f"{name} changes what is counted: its scope has to be 'batch'")
        return credit

    def held_back(self, scores: TokenScores) -> dict[str, Tensor]:
        """Which tokens each bound of the terms holds back, under these scores: by its name."""
        losses = zip(self.means, self.token_losses(scores), strict=True)
        shares = [
            pair for mean, (_, values) in losses for pair in zip(mean.shares, values, strict=True)
        ]
        return {
            name.removeprefix("loss/").removesuffix("_share"): share
            for name, share in shares
            if share.dtype == torch.bool
        }


def _prepared(term: Term[Any], step: Step) -> Any:
    """Once a step: it is the same in each of its updates."""
    return step.once(("prepared", id(term)), lambda: term.prepare(step))
