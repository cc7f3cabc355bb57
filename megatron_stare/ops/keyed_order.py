"""The order of values within their keys, over a process group, by telling every rank all of them.

What `ops.selection` does for one set without gathering it, this does for many sets at once (the
samples of a batch, its groups) of which each is small: 4 bytes of every token go to every rank.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

_SIGN = -(2**31)  # alone it is -0.0, which no value is: it ranks as 0.0


class KeyedOrder:
    """Values by key, the larger first, and among equal ones the smaller token ids.

    All ranks of the group make one together, and each knows the whole order.

    Args:
        values: float `[n]`, ranked as float32.
        token_ids: int64 `[n]`, unique over the group, in [0, R).
        keys: int64 `[R]`, of every token, in [0, K).
        num_keys: K.
        group: the ranks that hold values; None for this process alone.

    Raises:
        ValueError: on every rank, a value is NaN; the message names the token id.
    """

    def __init__(
        self,
        values: Tensor,
        token_ids: Tensor,
        *,
        keys: Tensor,
        num_keys: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        bits = torch.zeros(len(keys), dtype=torch.int32, device=values.device)
        # 0 where there is no value. One rank has a token: to its bits the others add zeros.
        bits[token_ids] = (values.float() + 0.0).view(torch.int32) ^ _SIGN
        if group is not None:
            dist.all_reduce(bits, group=group)
        self._num_tokens = len(keys)
        ids = bits.nonzero().squeeze(1)
        found = (bits[ids] ^ _SIGN).view(torch.float32)
        if found.isnan().any():
            raise ValueError(f"cannot rank values: token {int(ids[found.isnan()][0])} is NaN")
        by_value = found.sort(descending=True, stable=True).indices
        by_key = keys[ids[by_value]].sort(stable=True)
        order = by_value[by_key.indices]
        self._ids, self._values, self._keys = ids[order], found[order], by_key.values
        self._counts = self._keys.bincount(minlength=num_keys)
        self._starts = self._counts.cumsum(0) - self._counts

    def kth(self, k: Tensor) -> Tensor:
        """The k-th largest value of each key, k from 1: float64 `[K]`, NaN for a key without any.

        Raises:
            ValueError: k exceeds the number of values of a key that has any.
        """
        k = torch.where(self._counts > 0, k, 0)
        self._check(k)
        found = torch.full_like(k, math.nan, dtype=torch.float64)
        found[k > 0] = self._values[(self._starts + k - 1)[k > 0]].double()
        return found

    def top(self, k: Tensor) -> Tensor:
        """Which tokens are among the k largest of their key, k from 0: bool `[R]`.

        Raises:
            ValueError: k exceeds the number of values of a key.
        """
        self._check(k)
        rank = torch.arange(len(self._ids), device=k.device) - self._starts[self._keys]
        chosen = torch.zeros(self._num_tokens, dtype=torch.bool, device=k.device)
        chosen[self._ids] = rank < k[self._keys]
        return chosen

    def _check(self, k: Tensor) -> None:
        if (k > self._counts).any():
            key = int((k > self._counts).nonzero()[0])
            raise ValueError(f"k = {int(k[key])} of key {key}: it has {self._counts[key]} values")
