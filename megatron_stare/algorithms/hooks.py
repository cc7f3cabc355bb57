"""The parts that a method is made of, and what each of them can see.

    Link    maps the credit of a step's tokens to credit: advantages, token weights, masks, clips
    Term    a summand of the loss, of log-probs with a gradient

A method is a chain of links, one after another, and the terms that read what they made (`table`).
What a part can see decides what it can break:

    step view   links: the whole batch, through statistics that are the same bits on every rank,
                and no gradient
    live view   terms: a micro-batch's log-probs with their gradient, whole samples, nobody else's

A part never gets a process group: it cannot depend on how a batch is spread. Its settings are its
only attributes, and what it remembers from step to step is a state that the chain keeps for it.

Per token everything is flat, `[r]`, over the tokens of this rank (`data.packing.Share`); float32
where no dtype is named, and nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.batch_stats import BatchStats, Grouping
from megatron_stare.algorithms.settings import Settings
from megatron_stare.types import RolloutBatch, TokenBatch


class Credit(NamedTuple):
    """What a step has decided of each of its tokens, `[r]` each; no gradient.

    advantages  0 under the loss mask
    weights     factor of the policy term; 1 where no link says otherwise
    counted     bool: what the loss sums, and its denominators count; the loss mask, or less
    clip_low    the ratio's lower bound is 1 - clip_low, `[r]` or `[1]`
    clip_high   the upper one 1 + clip_high
    """

    advantages: Tensor
    weights: Tensor
    counted: Tensor
    clip_low: Tensor
    clip_high: Tensor

    def scaled(self, factor: Tensor | float, where: Tensor | None = None) -> Credit:
        """With the weights times a factor: of all tokens, or of those where a bool `[r]` says."""
        factor = torch.as_tensor(factor, dtype=self.weights.dtype, device=self.weights.device)
        changed = self.weights * factor
        return self._replace(
            weights=changed if where is None else torch.where(where, changed, self.weights)
        )

    def with_advantages(self, advantages: Tensor) -> Credit:
        """With other advantages, `[r]`; 0 where nothing is counted."""
        kept = torch.where(self.counted, advantages.to(self.advantages.dtype), 0.0)
        return self._replace(advantages=kept)

    def at(self, tokens: slice) -> Credit:
        """Of a run of this rank's tokens."""
        return Credit(*(part[tokens] if len(part) > 1 else part for part in self))


@dataclass(frozen=True, slots=True)
class Need[T]:
    """Something to be known of a step before its links run: a key with the type of its value.

    name    of the key, for messages
    passes  forward passes of a whole batch that measuring it costs
    """

    name: str
    passes: int


@dataclass(frozen=True)
class Step:
    """The step view: what is known of a step on this rank.

    number, progress  from 1; the share of the run's steps that are done with it, in (0, 1]
    batch             whole, the same on every rank, on the CPU
    index             int64 `[r]`, on the CPU: where this rank's tokens stand in the batch's order
    sample_ids        int64 `[r]`: the sample of each token
    mask              bool `[r]`: the loss mask
    updates           sample ids of each optimizer update of the step, over all ranks
    group             holds the batch's other tokens; for statistics alone
    facts             what was measured, by need
    """

    number: int
    progress: float
    batch: TokenBatch
    index: Tensor
    sample_ids: Tensor
    mask: Tensor
    updates: Sequence[Sequence[int]]
    group: dist.ProcessGroup | None = None
    facts: dict[Need[Any], Any] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)
    """What parts have to tell the user."""
    _known: dict[Any, Any] = field(default_factory=dict)

    def __getitem__[T](self, need: Need[T]) -> T:
        """What was measured; a part reads what it has declared.

        Raises:
            KeyError: it was not.
        """
        if need not in self.facts:
            raise KeyError(f"{need.name} was not measured: no part of the method declares it")
        return cast("T", self.facts[need])

    def knows(self, need: Need[Any]) -> bool:
        """Whether it was measured, for what is reported only where it is known."""
        return need in self.facts

    @property
    def rollouts(self) -> RolloutBatch:
        """The batch, of a step that has rewards."""
        assert isinstance(self.batch, RolloutBatch)
        return self.batch

    @cached_property
    def stats(self) -> BatchStats:
        """Statistics of the batch, of values `[r]`."""
        return BatchStats(self.batch, self.index, device=self.mask.device, group=self.group)

    def by(self, grouping: Callable[[Any], Grouping]) -> BatchStats:
        """Statistics by other keys: `step.by(Grouping.by_sample).mean(values)`."""
        return self.once(grouping, lambda: self.stats.by(grouping(self.batch)))

    def once[T](self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returns, made once a step for a key: `apply` and `report` share it."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def of_samples(self, values: Tensor) -> Tensor:
        """What is said of each sample, `[B]`, said of its tokens: `[r]`, 0 under the mask."""
        return values.to(self.mask.device)[self.sample_ids] * self.mask

    def at(self, tokens: slice) -> Step:
        """A run of this rank's tokens that holds whole samples, and is all that there is."""
        return replace(
            self,
            index=self.index[tokens],
            sample_ids=self.sample_ids[tokens],
            mask=self.mask[tokens],
            facts={need: _at(value, tokens) for need, value in self.facts.items()},
            group=None,
            _known={},
        )


def _at(value: Any, tokens: slice) -> Any:
    return value[tokens] if isinstance(value, Tensor) else value.at(tokens)


class Component(Settings):
    """A part of a method. Its settings are its fields, and their defaults stand there alone."""

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """What it reads of a step."""
        return frozenset()


class Link[S](Component):
    """Maps credit to credit. `S` is its state: a frozen dataclass of plain values, or None.

    A link whose scope is "sample" looks at single samples only, and has no state: where it reads
    scores of the policy, it may run in the micro-batch that computes them.
    """

    scope: ClassVar[Literal["sample", "batch"]] = "batch"

    def start(self) -> S:
        """The state before the first step."""
        return cast("S", None)

    def advance(self, state: S, step: Step) -> S:
        """The state that decides of this step, the same on every rank."""
        return state

    def apply(self, credit: Credit, step: Step, state: S) -> Credit:
        """The credit after this link."""
        return credit

    def report(self, credit: Credit, step: Step, state: S) -> Mapping[str, float]:
        """What it logs when the step is done; `OLD` is known then. `credit` is all links'."""
        return {}


class Live(NamedTuple):
    """The live view of a micro-batch, `[n]` each: whole samples, under the weights that learn.

    logprobs, entropies  with their gradient; entropies only where the term asks for it
    old_logprobs         under the weights before the step
    """

    logprobs: Tensor
    entropies: Tensor
    old_logprobs: Tensor
    credit: Credit


class Term[F](Component):
    """A summand of the loss. `F` is what it has prepared of each token, `[r]`, or None."""

    differentiates_entropy: ClassVar[bool] = False
    """Whether its gradient goes through entropies, too."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Metrics: means, over what is counted, of values that `loss` gives of each token."""

    @property
    def clip_range(self) -> tuple[float, float]:
        """Where the credit's `clip_low` and `clip_high` start, of a policy term that clips."""
        return math.inf, math.inf

    def prepare(self, step: Step) -> F:
        """Constants of the tokens."""
        return cast("F", None)

    def loss(self, live: Live, fields: F) -> tuple[Tensor, Sequence[Tensor]]:
        """The loss of each token, `[n]`, and `shares`' values of each, `[n]`."""
        raise NotImplementedError
