"""Shares that cost about the same."""

from __future__ import annotations

from collections.abc import Mapping


def balanced[K: (int, str)](costs: Mapping[K, float], num_shares: int) -> list[list[K]]:
    """Keys of each share: the dearest first, each to the share that costs least so far.

    Ties go to the smaller key and to the first share, so every process comes to the same.
    """
    shares: list[list[K]] = [[] for _ in range(num_shares)]
    loads = [0.0] * num_shares
    for key in sorted(costs, key=lambda key: (-costs[key], key)):
        least = loads.index(min(loads))
        shares[least].append(key)
        loads[least] += costs[key]
    return shares
