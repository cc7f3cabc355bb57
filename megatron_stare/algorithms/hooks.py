"""The parts that a method is made of, and what each of them can see.

    Curriculum  says which problems are asked
    Filter      says which groups of samples are trained on
    Link        maps the credit of a step's tokens to credit: advantages, weights, masks, clips
    Updates     says which samples each optimizer update of a step learns from, and with what credit
    Term        a summand of the loss, of log-probs with a gradient

A method is a chain of links, one after another, the terms that read what they made, and what is
around them (`table`). What a part can see decides what it can break:

    rollout     curricula, filters: groups of samples with their rewards, on rank 0, plain values
    step view   links, updates: the whole batch by statistics, the same bits everywhere; no gradient
    live view   terms: a micro-batch's log-probs with their gradient, whole samples, nobody else's

A part never gets a process group: it cannot depend on how a batch is spread. Its settings are its
only attributes, and what it remembers from step to step is a state that the chain keeps for it.

Per token everything is flat, `[r]`, over the tokens of this rank (`data.packing.Share`); float32
where no dtype is named, and nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple, cast

from torch import Tensor

from megatron_stare.algorithms.aggregation import Aggregation
from megatron_stare.algorithms.credit import Credit
from megatron_stare.algorithms.drawing import Drawing
from megatron_stare.algorithms.live import Live
from megatron_stare.algorithms.metric import Metric
from megatron_stare.algorithms.step import HeadNeed, Mark, Need, Step
from megatron_stare.ops.partials import TokenScores
from megatron_stare.system.settings import Settings
from megatron_stare.types import Group

__all__ = ["Component", "Credit", "Curriculum", "Drawing", "Filter", "HeadNeed", "Link", "Live"]
__all__ += ["Mark", "Metric", "Need", "Step", "Term", "Update", "Updates"]


class Component(Settings):
    """A part of a method. Its settings are its fields, and their defaults stand there alone."""

    needs: ClassVar[frozenset[Need[Any]]] = frozenset()
    """What it reads of a step; a property where its settings decide."""
    metrics: ClassVar[Mapping[str, Metric]] = {}
    """What it alone logs, by name."""


class Remembering[S](Component):
    """A part with a state `S`: a frozen dataclass of plain values, or None."""

    def start(self) -> S:
        """The state before the first step."""
        return cast("S", None)


class Link[S](Remembering[S]):
    """Maps credit to credit.

    A link whose scope is "sample" looks at single samples only, without a state: where it reads
    scores of the policy, it may run in the micro-batch that computes them, and then not change
    what is counted.
    """

    makes_advantages: ClassVar[bool] = False  # Of what has none.
    scope: ClassVar[Literal["sample", "batch"]] = "batch"
    marks: ClassVar[frozenset[Mark]] = frozenset()
    """What `apply` leaves on the step's tokens, for terms that need it."""

    def advance(self, state: S, step: Step) -> S:
        """The state that decides of this step, the same on every rank."""
        return state

    def apply(self, credit: Credit, step: Step, state: S) -> Credit:
        """The credit after this link."""
        return credit

    def drawing(self, state: S) -> Drawing:
        """How samples are drawn after this state's step, if this link says it."""
        return Drawing()

    def sets(self, credit: Credit, step: Step, state: S) -> Mapping[str, Tensor]:
        """Tokens that it has singled out, by the name of the set, bool `[r]`: they are dumped."""
        return {}

    def report(self, credit: Credit, step: Step, state: S) -> Mapping[str, float]:
        """What it logs, of the credit of links that ran in the step view; `OLD` is known."""
        return {}


class Term[F](Component):
    """A summand of the loss. `F` is what it has prepared of each token, `[r]`, or None."""

    has_own_mean: ClassVar[bool] = False
    """Whether its mean is over `counted`, and of its own kind, rather than the method's."""
    aggregation: ClassVar[Aggregation | None] = None
    """The kind of its own mean; None is the method's."""
    differentiates_entropy: ClassVar[bool] = False
    """Whether its gradient goes through entropies, too."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Metrics: means, over what is counted, of values that `loss` gives of each token."""

    @property
    def clip_range(self) -> tuple[float, float]:
        """Where the credit's `clip_low` and `clip_high` start, of a policy term that clips."""
        return math.inf, math.inf

    def counted(self, credit: Credit, step: Step) -> Tensor:
        """What its own mean is over, bool `[r]`; others' is over what the credit counts."""
        return credit.counted

    def prepare(self, step: Step) -> F:
        """Constants of the tokens."""
        return cast("F", None)

    def loss(self, live: Live, fields: F) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, `[n]`, and `shares`' values of each, `[n]`."""
        raise NotImplementedError


class Update(NamedTuple):
    """One optimizer update: the samples that it learns from, on whatever rank, and their credit.

    old  scores right before it, `[r]`, which ratios are to; None is those before the step
    """

    samples: Sequence[int]
    credit: Credit
    old: TokenScores | None = None


Rescore = Callable[[Sequence[int]], TokenScores]
"""Scores of samples under the weights of now, `[r]`, 0 elsewhere; a forward pass on all ranks."""


class Updates(Component):
    """The optimizer updates of a step, one after another.

    One that may compare with the policy before the step needs `OLD`: unless there is but one
    update, of all samples, nothing else says what that was.
    """

    @property
    def passes(self) -> int:
        """How often a step's batch is gone through: for schedules, plans and progress."""
        return 1

    def updates(self, step: Step, credit: Credit, rescore: Rescore) -> Iterator[Update]:
        """Each is done before the next is asked for. No sample stands twice in one."""
        raise NotImplementedError


class Curriculum[S](Remembering[S]):
    """Which problems are asked, in place of all of them epoch after epoch; on rank 0 alone.

    A problem is known by its place in the data, from 0.
    """

    def draw(
        self, count: int, problems: Sequence[int], state: S, random: Random
    ) -> Collection[int]:
        """So many of these problems, which the step has not asked, in the order to ask them.

        A mapping says with what probability each of them was drawn, its propensity. `random` is
        the only randomness, the same in a run that has been stopped and goes on.
        """
        raise NotImplementedError

    def appended(self, problem: int, state: S) -> str:
        """What stands behind the text of a problem that is asked; nothing, where it is empty."""
        return ""

    def observe(self, asked: Sequence[tuple[int, Group]], state: S) -> S:
        """The state after a step, by its groups as they were judged, in the order drawn."""
        return state


class Filter[S](Remembering[S]):
    """Which groups dynamic sampling keeps; others take the place of those it drops; on rank 0.

    One that remembers overrides `recall` in the place of `filter`.
    """

    replays: ClassVar[bool] = False
    """Whether it puts samples of earlier steps into a group: older than the weights they train."""

    def filter(self, group: Group) -> Group | None:
        """What is trained on in the group's place; None drops it."""
        raise NotImplementedError

    def recall(self, group: Group, state: S) -> Group | None:
        """The same, by what came of earlier steps."""
        return self.filter(group)

    def observe(self, judged: Sequence[Group], state: S) -> S:
        """The state after a step: its groups as they were judged, in the order they were drawn."""
        return state
