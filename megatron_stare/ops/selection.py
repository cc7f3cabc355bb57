"""Exact order statistics of values spread over a process group, without gathering them.

Tokens are ranked by value, the larger first, and among equal values by token id. To find the k-th:

1. An all-reduced histogram of the leading bits of all values says which bin the k-th is in. Only
   the *candidates* in this bin are looked at from here on.
2. Every rank shows some of its sorted candidates, evenly spaced, to all others. Between two shown
   neighbours lie equally many unseen ones, so the shown ones bound the place of the k-th from both
   sides. Repeat between the bounds, until a rank can show all it has left.

Each round of 2 leaves at most 2/1022 of the candidates, whatever their distribution, ties included:
one to three rounds for up to 2**27 of them. A rank contributes 8 KiB to each collective, however
many tokens it holds.

`n` is the number of values on this rank; it may be 0. All ranks of the group call with the same k.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_BIN_BITS = 10
_LOW_BITS = 32 - _BIN_BITS
_ID_BITS = 63 - _LOW_BITS
_NUM_BINS = 2**_BIN_BITS
_NUM_SHOWN = _NUM_BINS - 2  # with the bounds they were taken from: as long as the histogram
_MAX_ROUNDS = 7  # enough for 2**63 candidates
_INT64_MAX = 2**63 - 1
_BLOCK = {"cpu": 2**17, "cuda": 2**31}  # values looked at at a time; on a CPU what its cache holds


class TopK(NamedTuple):
    """The k largest values over the group.

    mask       bool `[n]`, this rank's part of them
    threshold  the smallest of them, i.e. the k-th largest value; NaN for k = 0
    """

    mask: Tensor
    threshold: float


def share_of(share: float, count: int) -> int:
    """ceil(share * count), in decimal: 0.1 of 30 is 3, whatever binary rounding says."""
    return int((Decimal(str(share)) * count).to_integral_value(ROUND_CEILING))


def global_top_k(
    values: Tensor, k: int, *, token_ids: Tensor, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Mask of the k largest values over the group; bool `[n]`.

    Exactly k tokens are taken: among equal values the smaller token ids first, whichever rank holds
    them. -0.0 equals 0.0, infinities are ordinary values. Two to four collectives of 8 KiB a rank
    for up to 2**27 candidates, none without a group.

        >>> values, ids = torch.tensor([3.0, 1.0, 3.0, 2.0]), torch.arange(4)
        >>> global_top_k(values, 1, token_ids=ids).tolist()
        [True, False, False, False]

    Args:
        values: float `[n]`, ranked as float32.
        k: how many to take, 0 <= k <= total number of values; the same on every rank.
        token_ids: int64 `[n]`, unique over the group, in [0, 2**41).
        group: the ranks that hold values; None for this process alone.

    Raises:
        ValueError: on every rank, when k is out of range or a value is NaN (the message names the
            token id).
    """
    return global_top_k_with_threshold(values, k, token_ids=token_ids, group=group).mask


def global_top_k_with_threshold(
    values: Tensor, k: int, *, token_ids: Tensor, group: dist.ProcessGroup | None = None
) -> TopK:
    """`global_top_k` and the k-th value, at no further cost."""
    if k == 0:
        return TopK(torch.zeros_like(values, dtype=torch.bool), float("nan"))
    values = values.detach().float()
    counts = _histogram(values, group)
    if _num_nan(counts):
        first = _first_nan(values, token_ids, group)
        raise ValueError(f"cannot rank values: token {first} has the value NaN")
    kth = _kth(values, token_ids, k, counts, group)
    ties = (values == kth.value).logical_and_(token_ids <= kth.token_id)
    return TopK(ties.logical_or_(values > kth.value), kth.value)


def global_kth_value(values: Tensor, k: int, *, group: dist.ProcessGroup | None = None) -> float:
    """The k-th largest value over the group, k from 1; collectives as in `global_top_k`.

    Raises:
        ValueError: on every rank, when k is out of range or a value is NaN.
    """
    values = values.detach().float()
    counts = _histogram(values, group)
    if num_nan := _num_nan(counts):
        raise ValueError(f"cannot rank values: {num_nan} of them are NaN")
    token_ids = torch.arange(len(values), device=values.device)
    return _kth(values, token_ids, k, counts, group).value


class _Kth(NamedTuple):
    value: float
    token_id: int


class _Bin(NamedTuple):
    """The float32 numbers of a sign, an exponent and a first bit of the fraction.

    start  the bits of the largest, as an int32
    step   from them to those of the next smaller number
    """

    start: int
    step: int

    @classmethod
    def at(cls, position: int) -> _Bin:
        """The bin at a position in descending order."""
        num_positive = _NUM_BINS // 2
        if position < num_positive:
            return cls(((num_positive - position) << _LOW_BITS) - 1, -1)
        return cls((position - _NUM_BINS) << _LOW_BITS, 1)

    def holds(self, bits: Tensor) -> Tensor:
        return bits >> _LOW_BITS == self.start >> _LOW_BITS

    def places(self, bits: Tensor, token_ids: Tensor) -> Tensor:
        """The order by value and id in the bin as one int64; anything for bits outside of it."""
        return torch.add(token_ids, bits - self.start, alpha=self.step << _ID_BITS)

    def at_place(self, place: int) -> _Kth:
        bits = self.start + self.step * (place >> _ID_BITS)
        value = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
        return _Kth(value.item(), place & (2**_ID_BITS - 1))


def _kth(
    values: Tensor, token_ids: Tensor, k: int, counts: Tensor, group: dist.ProcessGroup | None
) -> _Kth:
    """The k-th over the group, k from 1; `counts` are those of its histogram, without NaN."""
    ends = counts.cumsum(0)
    if not 0 < k <= ends[-1]:
        raise ValueError(f"k = {k} is out of range: there are {int(ends[-1])} values")
    position = int(torch.searchsorted(ends, k))
    k_in_bin = k - int(ends[position] - counts[position])
    bin_ = _Bin.at(position)
    places = _candidates(values, token_ids, bin_, k_in_bin)
    return bin_.at_place(_kth_smallest(places, k_in_bin, group))


def _bits(values: Tensor) -> Tensor:
    """As int32. -0.0 is 0.0, and NaN quiet: in the first and the last bin, which are its own."""
    return (values + 0.0).view(torch.int32)


def _histogram(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """How many values of the group are in each bin, the largest values first; int64 `[1024]`."""
    counts = torch.zeros(_NUM_BINS, dtype=torch.int64, device=values.device)
    for block in values.split(_BLOCK[values.device.type]):
        leading = (_bits(block) >> _LOW_BITS).bitwise_and_(_NUM_BINS - 1)
        counts += torch.bincount(leading, minlength=_NUM_BINS)
    if group is not None:
        dist.all_reduce(counts, group=group)
    positive, negative = counts.chunk(2)
    return torch.cat([positive.flip(0), negative])


def _num_nan(counts: Tensor) -> int:
    return int(counts[0] + counts[-1])


def _first_nan(values: Tensor, token_ids: Tensor, group: dist.ProcessGroup | None) -> int:
    """The smallest id of a NaN over the group."""
    first = token_ids.masked_fill(~values.isnan(), _INT64_MAX)
    first = torch.cat([first, first.new_tensor([_INT64_MAX])]).amin()
    if group is not None:
        dist.all_reduce(first, dist.ReduceOp.MIN, group=group)
    return int(first)


def _candidates(values: Tensor, token_ids: Tensor, bin_: _Bin, k: int) -> Tensor:
    """Places in the bin of this rank's values: all of them, or the k smallest and some more."""
    parts, num_held, bound = [], 0, _INT64_MAX
    size = _BLOCK[values.device.type]
    for block, ids in zip(values.split(size), token_ids.split(size), strict=True):
        if num_held >= k and bound == _INT64_MAX:
            bound = int(torch.cat(parts).max())
        bits = _bits(block)
        places = bin_.places(bits, ids)
        parts.append(places.masked_select(bin_.holds(bits).logical_and_(places <= bound)))
        num_held += len(parts[-1])
    return torch.cat(parts)


def _kth_smallest(places: Tensor, k: int, group: dist.ProcessGroup | None) -> int:
    """The k-th smallest place over the group, k from 1; one all-gather a round."""
    places = _smallest(places, k)  # the others are beyond it on this rank alone
    start, end = 0, len(places)  # the k-th place is not outside places[start:end] of any rank
    for _ in range(_MAX_ROUNDS):
        starts, ends, shown = _gather(_show(places, start, end), group).split((1, 1, _NUM_SHOWN), 1)
        gains = _shown_ends(starts, ends).diff(dim=1, prepend=starts)
        num_unseen = int((gains.amax(1) - 1).clamp(min=0).sum())  # at most, between neighbours
        shown, order = shown.flatten().sort()
        at_least = starts.sum() + gains.flatten()[order].cumsum(0)  # places up to each shown one
        upper = shown[torch.searchsorted(at_least, k)]
        if num_unseen == 0:
            return int(upper)
        end = int(torch.searchsorted(places, upper, right=True))
        num_below = int(torch.searchsorted(at_least, k - num_unseen))
        if num_below:
            start = int(torch.searchsorted(places, shown[num_below - 1]))
    raise ValueError("cannot rank values: token ids are not unique")


def _smallest(places: Tensor, k: int) -> Tensor:
    """The k smallest or all, in order. Ties with ascending ids, the bulk of them, are in order."""
    if not (places[1:] < places[:-1]).any():
        return places[:k]
    if k < len(places):
        places = places.topk(k, largest=False, sorted=False).values
    return places.sort().values


def _shown_ends(starts: Tensor, ends: Tensor) -> Tensor:
    """Where the parts of places[start:end] end, each shown by its last place; int64 `[..., 1022]`.

    They are as equal as they divide. Where there are fewer places than parts, the rest are empty.
    """
    num_parts = (ends - starts).clamp(1, _NUM_SHOWN)
    parts = torch.arange(1, _NUM_SHOWN + 1, device=starts.device).minimum(num_parts)
    return starts + parts * (ends - starts) // num_parts


def _show(places: Tensor, start: int, end: int) -> Tensor:
    """What a rank tells the others: start, end, and the last place of each part."""
    row = places.new_full((2 + _NUM_SHOWN,), _INT64_MAX)
    row[0], row[1] = start, end
    num_parts = min(end - start, _NUM_SHOWN)
    part_ends = _shown_ends(row[0], row[1])[:num_parts]
    row[2 : 2 + num_parts] = places[part_ends - 1]
    return row


def _gather(row: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is None:
        return row[None]
    rows = row.new_empty(dist.get_world_size(group) * len(row))
    dist.all_gather_single(rows, row, group=group)
    return rows.view(-1, len(row))
