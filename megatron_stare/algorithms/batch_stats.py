"""Statistics of a batch whose tokens are spread over ranks: the same bits on every rank.

Whatever is decided of a batch (a gate, a threshold, a whitened advantage) must not depend on how
its samples are spread over data-parallel ranks and micro-batches. Sums of floats do, unless their
order is fixed:

    atoms   stretches of one sample's tokens, in the batch's order: samples, turns or tokens. An
            atom is whole on one rank, which adds its tokens one after another in float64.
    batch   every rank is told the sum of every atom, and adds those of a key in batch order.

What one rank tells the others is zero but for its own atoms: their reduction adds nothing but zeros
to any number, in whatever order it adds. Minima, maxima and order statistics are exact anyway.

Shapes: R response tokens of the batch, r of them on this rank, A atoms, K keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_stare.ops.keyed_order import KeyedOrder
from megatron_stare.ops.selection import global_kth_value, global_top_k, share_of
from megatron_stare.types import RolloutBatch, TokenBatch

ROUNDING = 1e-12
"""Of a value: a mean of millions of values that are all the same errs by less, in float64."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which tokens of a batch belong together: the key of each atom, known on every rank.

    keys     int64 `[A]`, from 0 to K - 1, every one of them used; samples may share them
    lengths  int64 `[A]`, tokens of each atom; they sum to R, and no atom crosses two samples
    """

    keys: Tensor
    lengths: Tensor

    @classmethod
    def of_all(cls, batch: TokenBatch) -> Grouping:
        """One key for the whole batch."""
        return cls(torch.zeros_like(batch.response_lengths), batch.response_lengths)

    @classmethod
    def by_sample(cls, batch: TokenBatch) -> Grouping:
        """A key for each sample: K = B."""
        return cls(torch.arange(len(batch)), batch.response_lengths)

    @classmethod
    def by_turn(cls, batch: RolloutBatch) -> Grouping:
        """A key for each turn of each sample."""
        turns, lengths = torch.stack([batch.sample_ids, batch.turn_numbers]).unique_consecutive(
            dim=1, return_counts=True
        )
        return cls(torch.arange(turns.shape[1]), lengths)

    @classmethod
    def by_turn_number(cls, batch: RolloutBatch) -> Grouping:
        """A key for the first turn of all samples, for the second, and so on."""
        turns = cls.by_turn(batch)
        ends = turns.lengths.cumsum(0) - 1
        return cls(batch.turn_numbers[ends].unique(return_inverse=True)[1], turns.lengths)

    @classmethod
    def by_group(cls, batch: RolloutBatch) -> Grouping:
        """A key for each group, in ascending order of their ids."""
        return cls(batch.group_ids.unique(return_inverse=True)[1], batch.response_lengths)

    @classmethod
    def by_group_and_position(cls, batch: RolloutBatch) -> Grouping:
        """A key for each place in the responses of each group, however many samples reach it.

        A token's place is how many before it in its response the policy chose: what the loss mask
        hides moves nothing.
        """
        before = batch.loss_mask.cumsum(0) - batch.loss_mask.long()
        starts = batch.num_loss_tokens.cumsum(0) - batch.num_loss_tokens
        position = before - starts[batch.sample_ids]
        places = batch.group_ids[batch.sample_ids] * (len(position) + 1) + position
        return cls(places.unique(return_inverse=True)[1], torch.ones_like(places))


class BatchStats:
    """Statistics of a batch's tokens by key: float64 `[K]`, and of the whole batch `[1]`.

    All ranks of the group make the same calls. `where`, bool `[r]`, says which tokens count, by
    default those of the loss mask; what it leaves out may be NaN. A key without any has count and
    sum 0, and NaN for all else.

        >>> batch = TokenBatch(torch.arange(5), torch.zeros(2).long(), torch.tensor([2, 3]),
        ...                    torch.tensor([True, True, True, True, False]))
        >>> stats = BatchStats(batch, torch.arange(5))
        >>> values = torch.tensor([1.0, 2.0, 3.0, 6.0, torch.nan])
        >>> stats.mean(values)
        tensor([3.], dtype=torch.float64)
        >>> samples = stats.by(Grouping.by_sample(batch))
        >>> samples.of_tokens(samples.max(values))
        tensor([2., 2., 6., 6., 6.], dtype=torch.float64)

    Args:
        batch: the whole batch.
        index: int64 `[r]`, where this rank's tokens stand in the batch's order (`Share.index`).
        grouping: the keys; by default one for all.
        device: of the values; by default that of the index.
        group: the data-parallel ranks that hold the other tokens; None for this process alone.
    """

    def __init__(
        self,
        batch: TokenBatch,
        index: Tensor,
        *,
        grouping: Grouping | None = None,
        device: torch.device | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        grouping = Grouping.of_all(batch) if grouping is None else grouping
        device = index.device if device is None else device
        self._batch, self._index, self._grouping = batch, index, grouping
        self.group = group
        """The ranks that hold the other tokens."""
        self.mask = batch.loss_mask[index].to(device)
        """The loss mask, bool `[r]`."""
        self.token_ids = index.to(device)
        """Of each token, int64 `[r]`: its place in the batch; ties go to the smaller one."""
        atom_of_token = torch.repeat_interleave(torch.arange(len(grouping.keys)), grouping.lengths)
        self.keys = grouping.keys[atom_of_token[index]].to(device)
        """Of each token, int64 `[r]`."""
        held, lengths = atom_of_token[index].unique_consecutive(return_counts=True)
        self._held, self._lengths = held.to(device), lengths.to(device)
        self._by_key = grouping.keys.argsort(stable=True).to(device)
        self._atoms_of_key = grouping.keys.bincount().to(device)
        self._num_keys = len(self._atoms_of_key)

    def by(self, grouping: Grouping) -> BatchStats:
        """The statistics of the same tokens by other keys."""
        device, group = self.mask.device, self.group
        return BatchStats(self._batch, self._index, grouping=grouping, device=device, group=group)

    def of_tokens(self, of_keys: Tensor) -> Tensor:
        """What is said of each key, `[K]`, said of its tokens: `[r]`, or `[1]` for all of them."""
        return of_keys if self._num_keys == 1 else of_keys[self.keys]

    def count(self, where: Tensor | None = None) -> Tensor:
        """How many tokens there are."""
        return self._num_masked if where is None else self._sums(where.double())[0]

    def sum(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The sum of values `[r]`."""
        return self._sums(self._chosen(values, where))[0]

    def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The mean of values `[r]`."""
        count, total = self._count_and_sum(self._chosen(values, where), where)
        return total / count

    def std(self, values: Tensor, where: Tensor | None = None, *, unbiased: bool = True) -> Tensor:
        """The standard deviation of values `[r]`; 0 of a single one."""
        centred, count = self._centred(values, where)
        return self._std_of(centred.square_(), count, unbiased=unbiased)

    def _centred(self, values: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values less their mean, float64 `[r]`, 0 for tokens that do not count; and the count."""
        centred = self._chosen(values, where)
        count, total = self._count_and_sum(centred, where)
        # In place: to make a tensor of all tokens takes longer than to go over one.
        centred.sub_(self.of_tokens(total / count)).masked_fill_(~self._counted(where), 0.0)
        return centred, count

    def _std_of(self, squares: Tensor, count: Tensor, *, unbiased: bool) -> Tensor:
        degrees = (count - 1).clamp(min=1) if unbiased else count
        return (self._sums(squares)[0] / degrees).sqrt().masked_fill(count == 0, math.nan)

    def whiten(self, values: Tensor, where: Tensor | None = None, *, eps: float = 1e-8) -> Tensor:
        """(x - mean) / sqrt(var + eps), unbiased, float64 `[r]`; 0 for tokens that do not count.

        And exactly 0 where x is the mean up to rounding: what follows may ask for the sign.
        """
        centred, count = self._centred(values, where)
        distance = centred.abs()
        is_mean = distance <= ROUNDING * values.abs()
        squares = distance.masked_fill_(is_mean, 0.0).square_()
        variance = self._std_of(squares, count, unbiased=True).square()
        whitened = centred.masked_fill_(is_mean, 0.0).div_(self.of_tokens((variance + eps).sqrt()))
        return whitened.masked_fill_(~self._counted(where), 0.0)

    def min(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The smallest of values `[r]`; NaN if any is."""
        return -self.max(-values, where)

    def max(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """The largest of values `[r]`; NaN if any is."""
        where = self._counted(where)
        # NaN is told by itself: what a reduction makes of it depends on the order.
        chosen = values[where].double()
        is_nan, is_any = chosen.isnan(), torch.ones_like(chosen)
        rows = torch.stack([chosen.masked_fill(is_nan, -math.inf), is_nan, is_any])
        found = rows.new_full((3, self._num_keys), -math.inf)
        found.scatter_reduce_(1, self.keys[where].expand(3, -1), rows, "amax")
        if self.group is not None:
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.group)
        largest, has_nan, has_any = found
        return largest.masked_fill((has_nan > 0) | (has_any < 0), math.nan)

    def top(self, values: Tensor, k: Tensor, where: Tensor | None = None) -> Tensor:
        """Which are the k largest of values `[r]`, ranked as float32: bool `[r]`.

        Args:
            k: int64 `[K]`.

        Raises:
            ValueError: on every rank, k exceeds the count, or a value is NaN (its token is named).
        """
        where = self._counted(where)
        if self._num_keys != 1:
            return self._order(values, where).top(k)[self.token_ids]
        chosen = global_top_k(
            values[where], int(k), token_ids=self.token_ids[where], group=self.group
        )
        return torch.zeros_like(where).masked_scatter_(where, chosen)

    def top_share(
        self, values: Tensor, share: float, where: Tensor | None = None, *, round_up: bool = True
    ) -> Tensor:
        """Which are the largest share of values `[r]`, at least one if there are any: bool `[r]`.

        NaN, which a broken policy says, ranks as 0: its loss is no number either.

        Args:
            round_up: to whole tokens, or else down.
        """
        count = self.count(where)
        k = (share * count).long()
        if round_up:
            k = k.new_tensor([share_of(share, int(each)) for each in count.tolist()])
        k = k.clamp(min=1).minimum(count.long())
        return self.top(values.nan_to_num(), k, where)

    def kth(self, values: Tensor, k: Tensor, where: Tensor | None = None) -> Tensor:
        """The k-th largest of values `[r]` taken as float32; NaN where there are none.

        Args:
            k: int64 `[K]`, from 1 to the count.

        Raises:
            ValueError: on every rank, a value is NaN.
        """
        where = self._counted(where)
        if self._num_keys != 1:
            return self._order(values, where).kth(k)
        if not self.count(where):
            return torch.full_like(k, math.nan, dtype=torch.float64)
        found = global_kth_value(values[where], int(k), group=self.group)
        return torch.full_like(k, found, dtype=torch.float64)

    def quantile(self, values: Tensor, q: float, where: Tensor | None = None) -> Tensor:
        """The q-quantile of values `[r]` taken as float32, linear between two of them.

        Raises:
            ValueError: on every rank, a value is NaN.
        """
        place = (1 - q) * (self.count(where) - 1).clamp(min=0)  # as they are ranked
        upper = self.kth(values, place.floor().long() + 1, where)
        lower = self.kth(values, place.ceil().long() + 1, where)
        return upper + (place - place.floor()) * (lower - upper)

    def _order(self, values: Tensor, where: Tensor) -> KeyedOrder:
        keys = torch.repeat_interleave(self._grouping.keys, self._grouping.lengths)
        return KeyedOrder(
            values[where],
            self.token_ids[where],
            keys=keys.to(values.device),
            num_keys=self._num_keys,
            group=self.group,
        )

    def _counted(self, where: Tensor | None) -> Tensor:
        return self.mask if where is None else where

    def _chosen(self, values: Tensor, where: Tensor | None) -> Tensor:
        """A float64 tensor of its own, `[r]`: 0 for tokens that do not count."""
        return torch.where(self._counted(where), values, 0).double()

    @cached_property
    def _num_masked(self) -> Tensor:
        return self._sums(self.mask.double())[0]

    def _count_and_sum(self, chosen: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
        if where is None:
            return self._num_masked, self._sums(chosen)[0]
        count, total = self._sums(where.double(), chosen)
        return count, total

    def _sums(self, *columns: Tensor) -> Tensor:
        """Of float64 columns `[r]` each, by key: `[n, K]`; one reduction."""
        atoms = columns[0].new_zeros(len(columns), len(self._by_key))
        for row, column in zip(atoms, columns, strict=True):
            row[self._held] = _sum_of_runs(column, self._lengths)
        if self.group is not None:
            dist.all_reduce(atoms, group=self.group)
        return torch.stack([_sum_of_runs(row[self._by_key], self._atoms_of_key) for row in atoms])


def _sum_of_runs(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of consecutive values `[n]`, as many as each length says, one after another."""
    # Of one dimension, a GPU's kernel adds in an order that depends on where a run starts.
    return torch.segment_reduce(values[:, None], "sum", lengths=lengths, unsafe=True)[:, 0]
