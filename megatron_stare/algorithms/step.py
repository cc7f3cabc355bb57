"""The step view: a batch on this rank, and what was measured of it before the update.

Per token everything is flat, `[r]`, over the tokens of this rank (`data.packing.Share`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.algorithms.batch_stats import BatchStats, Grouping
from megatron_stare.types import RolloutBatch, TokenBatch


@dataclass(frozen=True, slots=True)
class Need[T]:
    """Something to be known of a step before its links run: a key with the type of its value.

    name    of the key, for messages
    passes  forward passes of a whole batch that measuring it costs
    """

    name: str
    passes: int


@dataclass(frozen=True, slots=True)
class HeadNeed[T](Need[T]):
    """What the LM head says in the pass that scores the policy before the step.

    A part that needs one needs `OLD`, too. Those that differ in their settings are others.

    rows      numbers of each token
    products  further products of hidden states and the head's weight that it takes
    """

    passes: int = 0
    rows: int = 1
    products: int = 0


@dataclass(frozen=True, slots=True)
class Mark(Need[Tensor]):
    """A number that a link leaves on each token for terms, `[r]`: `step.facts[MARK] = ...`."""

    passes: int = 0


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
    seed              of the run, for `uniform`
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
    seed: int = 0
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

    @cached_property
    def own_samples(self) -> BatchStats:
        """Statistics of each sample on this rank, one by one: they tell nothing of any other.

        What is said of keys is of these samples, and only `of_tokens` says whose it is. It costs
        what this rank's tokens cost, which in a micro-batch are few.
        """
        lengths = self.sample_ids.unique_consecutive(return_counts=True)[1].cpu()
        mask = self.batch.loss_mask[self.index]
        held = TokenBatch(self.index, torch.zeros_like(lengths), lengths, mask)
        places = torch.arange(len(mask))
        grouping = Grouping.by_sample(held)
        return BatchStats(held, places, grouping=grouping, device=self.mask.device)

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

    def uniform(self, salt: str) -> Tensor:
        """A random number in [0, 1) for each token, float32 `[r]`, the same in every layout.

        It depends on the run's seed, the step, the salt and the token's place among those of the
        batch's loss mask; under the mask it is 0. A link has no other randomness but `drawn`.
        """
        mask = self.batch.loss_mask
        drawn = self.drawn(1 + int(mask.sum()), salt)
        place = (mask.cumsum(0) * mask)[self.index]
        return drawn[place].to(self.mask.device) * self.mask

    def drawn(self, count: int, salt: str) -> Tensor:
        """Random numbers in [0, 1), float32 `[count]`, on the CPU, the same in every layout."""
        key = hashlib.sha256(f"{self.seed}/{self.number}/{salt}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big", signed=True))
        return torch.rand(count, generator=generator)

    def at(self, tokens: slice | Tensor) -> Step:
        """Some of this rank's tokens that make whole samples, and are all that there is."""
        return replace(
            self,
            index=self.index[tokens],
            sample_ids=self.sample_ids[tokens],
            mask=self.mask[tokens],
            facts={need: _at(value, tokens) for need, value in self.facts.items()},
            group=None,
            _known={},
        )


def _at(value: Any, tokens: slice | Tensor) -> Any:
    return value[tokens] if isinstance(value, Tensor) else value.at(tokens)
