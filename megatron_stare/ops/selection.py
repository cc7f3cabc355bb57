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
_INT32_MAX, _INT32_MIN = 2**31 - 1, -(2**31)
_INT64_MAX = 2**63 - 1


class TopK(NamedTuple):
    """The k largest values over the group.

    mask       bool `[n]`, this rank's part of them
    threshold  the smallest of them, i.e. the k-th largest value; NaN for k = 0
    """

    mask: Tensor
    threshold: float


def global_top_k(
    values: Tensor, k: int, *, token_ids: Tensor, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Mask of the k largest values over the group; bool `[n]`.

    Exactly k tokens are taken: among equal values the smaller token ids first, whichever rank holds
    them. -0.0 equals 0.0, infinities are ordinary values. Two to four collectives of 8 KiB a rank
    for up to 2**27 candidates, none without a group.

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
    keys = _descending_keys(values)
    bins = keys >> _LOW_BITS
    found = _locate(bins, k, group)
    candidates = (bins == found.bin).nonzero().squeeze(1)
    places = _places(keys.index_select(0, candidates), token_ids.index_select(0, candidates))
    kth = _kth_smallest(places, found.k_in_bin, group)
    if found.num_nan:
        raise ValueError(f"cannot rank values: token {_id_of(kth)} has the value NaN")
    mask = (bins < found.bin).index_copy_(0, candidates, places <= kth)
    return TopK(mask, _value_of(found.bin, kth))


def global_kth_value(values: Tensor, k: int, *, group: dist.ProcessGroup | None = None) -> float:
    """The k-th largest value over the group, k from 1; collectives as in `global_top_k`.

    Raises:
        ValueError: on every rank, when k is out of range or a value is NaN.
    """
    keys = _descending_keys(values)
    bins = keys >> _LOW_BITS
    found = _locate(bins, k, group)
    if found.num_nan:
        raise ValueError(f"cannot rank values: {found.num_nan} of them are NaN")
    candidates = keys.masked_select(bins == found.bin)
    places = _places(candidates, torch.arange(len(candidates), device=keys.device))
    return _value_of(found.bin, _kth_smallest(places, found.k_in_bin, group))


def _descending_keys(values: Tensor) -> Tensor:
    """int32 images: the larger the value, the smaller its key; NaN before all, in a bin alone."""
    canonical = values.detach().float() + 0.0  # -0.0 + 0.0 is 0.0
    keys = _flip_negative(canonical.view(torch.int32)).bitwise_not_()
    return keys.masked_fill_(canonical.isnan(), _INT32_MIN)


def _flip_negative(bits: Tensor) -> Tensor:
    """From float32 bits to an int32 of the same order, and back: negatives are sign-magnitude."""
    return (bits >> 31).bitwise_and_(_INT32_MAX).bitwise_xor_(bits)


def _places(keys: Tensor, token_ids: Tensor) -> Tensor:
    """Keys of one bin and their ids, as one int64 of the same order."""
    low_bits = keys.long().bitwise_and_(2**_LOW_BITS - 1)
    return low_bits.bitwise_left_shift_(_ID_BITS).bitwise_or_(token_ids)


def _id_of(place: int) -> int:
    return place & (2**_ID_BITS - 1)


def _value_of(bin_: int, place: int) -> float:
    key = torch.tensor((bin_ << _LOW_BITS) + (place >> _ID_BITS), dtype=torch.int32)
    return _flip_negative(~key).view(torch.float32).item()


class _Found(NamedTuple):
    bin: int  # the leading bits of the k-th key; of NaN where there are any
    k_in_bin: int
    num_nan: int


def _locate(bins: Tensor, k: int, group: dist.ProcessGroup | None) -> _Found:
    """The bin of the k-th smallest key over the group; of the first NaN where there are any."""
    lowest = -_NUM_BINS // 2
    counts = torch.bincount(bins - lowest, minlength=_NUM_BINS)
    if group is not None:
        dist.all_reduce(counts, group=group)
    ends = counts.cumsum(0)
    if not 0 < k <= ends[-1]:
        raise ValueError(f"k = {k} is out of range: there are {int(ends[-1])} values")
    if num_nan := int(counts[0]):
        return _Found(lowest, 1, num_nan)
    bin_ = int(torch.searchsorted(ends, k))
    return _Found(lowest + bin_, k - int(ends[bin_ - 1]), 0)


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
