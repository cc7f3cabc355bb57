"""A method: its links in their order, its terms, and what the two need."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from megatron_stare.algorithms.aggregation import Aggregation
from megatron_stare.algorithms.drawing import Drawing, drawing_of
from megatron_stare.algorithms.hooks import (
    Component,
    Credit,
    Curriculum,
    Filter,
    Link,
    Need,
    Rescore,
    Step,
    Term,
    Update,
    Updates,
)
from megatron_stare.algorithms.needs import OLD
from megatron_stare.algorithms.updates import Epochs
from megatron_stare.system.settings import Settings
from megatron_stare.system.values import Count


class Method(Settings):
    """The parts of a method by their names in the table, or where a user's class is found."""

    links: dict[str, Link] = Field(default={})
    """What decides the credit of each token, one after another; the method's own unless given."""
    policy: dict[str, Term] = Field(default={})
    """The term of the loss that learns from that credit, one; the method's own unless given."""
    terms: dict[str, Term] = Field(default={})
    """Further terms of the loss; the method's own unless given."""
    updates: dict[str, Updates] = Field(default={"epochs": Epochs()})
    """Which samples each optimizer update learns from, one; the method's own unless given."""
    filters: dict[str, Filter] = Field(default={})
    """Which groups `rollout.dynamic_sampling` keeps; the method's own unless given."""
    curriculum: dict[str, Curriculum] = Field(default={})
    """Which problems are asked, one; without, all of them epoch after epoch."""
    aggregation: Aggregation = "token-mean"
    """How token losses become one number, over the global batch."""
    sum_over: Count = 1
    """Tokens by which every sample's sum of `seq-mean-token-sum` is divided, however long it is;
    Dr. GRPO's authors take the longest that a response may be."""

    @model_validator(mode="after")
    def _sums_are_divided(self) -> Self:
        if self.sum_over != 1 and self.aggregation != "seq-mean-token-sum":
            raise ValueError(
                f"sum_over={self.sum_over} with aggregation={self.aggregation!r}: expected "
                "'seq-mean-token-sum', or 1"
            )
        return self

    @field_validator("policy", "updates")
    @classmethod
    def _is_one[C: Component](cls, parts: dict[str, C]) -> dict[str, C]:
        if len(parts) != 1:
            raise ValueError(f"expected one part, found {', '.join(parts) or 'none'}")
        return parts

    @field_validator("curriculum")
    @classmethod
    def _is_one_at_most(cls, curriculum: dict[str, Curriculum]) -> dict[str, Curriculum]:
        if len(curriculum) > 1:
            raise ValueError(f"expected one at most, found {', '.join(curriculum)}")
        return curriculum

    @property
    def parts(self) -> dict[str, Component]:
        """All of them."""
        before = {**self.curriculum, **self.filters}
        return {**self.links, **self.policy, **self.terms, **self.updates, **before}

    @property
    def loss_terms(self) -> tuple[Term, ...]:
        """All summands of the loss."""
        return (*self.policy.values(), *self.terms.values())

    @property
    def late(self) -> tuple[Link, ...]:
        """The last links, as many as run in the micro-batch on the log-probs computed there."""

        def can_wait(link: Link) -> bool:
            return link.scope == "sample" and OLD in link.needs and not link.marks

        return tuple(takewhile(can_wait, reversed(self.links.values())))[::-1]

    @property
    def early(self) -> dict[str, Link]:
        """The links before them: they decide of the whole batch before the update."""
        names = list(self.links)[: len(self.links) - len(self.late)]
        return {name: self.links[name] for name in names}

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """What is to be measured before the update."""
        parts = (*self.early.values(), *self.loss_terms, *self.updates.values())
        before = [part.needs for part in parts]
        meanwhile = [link.needs - {OLD} for link in self.late]
        marks = [link.marks for link in self.links.values()]
        return frozenset().union(*before, *meanwhile).difference(*marks)

    @property
    def replays(self) -> bool:
        """Whether groups may hold samples of earlier steps."""
        return any(part.replays for part in self.filters.values())

    @property
    def passes(self) -> int:
        """How often a step's batch is gone through."""
        (updates,) = self.updates.values()
        return updates.passes

    def in_turn(self, step: Step, credit: Credit, rescore: Rescore) -> Iterator[Update]:
        """The optimizer updates of a step."""
        (updates,) = self.updates.values()
        return updates.updates(step, credit, rescore)

    @property
    def first_drawing(self) -> Drawing:
        """How the first samples are drawn, and so what else is asked of engine and sampler."""
        return drawing_of([link.drawing(link.start()) for link in self.links.values()])

    @property
    def differentiates_entropy(self) -> bool:
        """Whether any term does."""
        return any(term.differentiates_entropy for term in self.loss_terms)
