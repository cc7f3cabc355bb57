"""Exact order statistics of values spread over a process group, without gathering them.

Radix selection: a float32 has an integer image of the same order, so the k-th largest value is
found digit by digit, 16 bits at a time. Each digit costs one all-reduce of a histogram (512 KiB),
however many tokens there are: two for the value, and two more for the token ids where the k-th
value is shared and only some of its holders are taken.

`n` is the number of values on this rank; it may be 0. All ranks of the group call with the same k.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

_DIGIT_BITS = 16
_NUM_BINS = 2**_DIGIT_BITS + 1  # the last one counts keys too wide for the digits asked for
_NAN_KEY = 2**32
_MAX_INT32 = 2**31 - 1


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
    them. -0.0 equals 0.0, infinities are ordinary values. At most 4 all-reduces for ids below 2**32
    and 8 for wider ones, none without a group.

    Args:
        values: float `[n]`, ranked as float32.
        k: how many to take, 0 <= k <= total number of values; the same on every rank.
        token_ids: int64 `[n]`, not negative, unique over the group.
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
    kth = _kth_smallest(keys, k, group)
    if kth.num_too_wide:
        first = _kth_smallest_id(token_ids[keys == _NAN_KEY], 1, group)
        raise ValueError(f"cannot rank values: token {first} has the value NaN")
    mask = keys < kth.key
    ties = keys == kth.key
    num_ties_taken = k - kth.num_smaller
    if num_ties_taken < kth.num_equal:
        ties &= token_ids <= _kth_smallest_id(token_ids[ties], num_ties_taken, group)
    return TopK(mask | ties, _value_of(kth.key))


def global_kth_value(values: Tensor, k: int, *, group: dist.ProcessGroup | None = None) -> float:
    """The k-th largest value over the group, k from 1; two all-reduces.

    Raises:
        ValueError: on every rank, when k is out of range or a value is NaN.
    """
    kth = _kth_smallest(_descending_keys(values), k, group)
    if kth.num_too_wide:
        raise ValueError(f"cannot rank values: {kth.num_too_wide} of them are NaN")
    return _value_of(kth.key)


def _descending_keys(values: Tensor) -> Tensor:
    """Integer images in [0, 2**32), int64: the larger the value, the smaller its key."""
    canonical = values.detach().float() + 0.0  # -0.0 + 0.0 is 0.0
    keys = _MAX_INT32 - _flip_negative(canonical.view(torch.int32)).long()
    return keys.masked_fill_(canonical.isnan(), _NAN_KEY)


def _value_of(key: int) -> float:
    image = torch.tensor(_MAX_INT32 - key, dtype=torch.int32)
    return _flip_negative(image).view(torch.float32).item()


def _flip_negative(bits: Tensor) -> Tensor:
    """From float32 bits to an int32 of the same order, and back: negatives are sign-magnitude."""
    return bits ^ ((bits >> 31) & _MAX_INT32)


class _Kth(NamedTuple):
    key: int
    num_smaller: int
    num_equal: int  # itself included
    num_too_wide: int  # where not 0 the rest is meaningless


def _kth_smallest(
    keys: Tensor, k: int, group: dist.ProcessGroup | None, num_digits: int = 2
) -> _Kth:
    """The k-th smallest of non-negative keys over the group, k from 1; one all-reduce a digit."""
    key = num_smaller = num_equal = num_too_wide = 0
    for shift in range(_DIGIT_BITS * (num_digits - 1), -1, -_DIGIT_BITS):
        digits = (keys >> shift).clamp_(max=_NUM_BINS - 1)
        counts = torch.bincount(digits, minlength=_NUM_BINS)
        if group is not None:
            dist.all_reduce(counts, group=group)
        ends = num_smaller + counts.cumsum(0)
        if not 0 < k <= ends[-1]:
            raise ValueError(f"k = {k} is out of range: there are {int(ends[-1])} values")
        digit = int(torch.searchsorted(ends, k))
        num_equal = int(counts[digit])
        num_smaller = int(ends[digit]) - num_equal
        num_too_wide += int(counts[-1])
        keys = keys[digits == digit] & ((1 << shift) - 1)
        key |= digit << shift
    return _Kth(key, num_smaller, num_equal, num_too_wide)


def _kth_smallest_id(token_ids: Tensor, k: int, group: dist.ProcessGroup | None) -> int:
    kth = _kth_smallest(token_ids, k, group)
    if kth.num_too_wide:
        kth = _kth_smallest(token_ids, k, group, num_digits=4)
    return kth.key
