"""Where training stands in a data set: an epoch, and a position in that epoch's order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Any

from megatron_stare.errors import UserError


class EpochCursor:
    """Walks over `num_rows` rows, epoch after epoch, each in its own seeded order.

    `name` and `digest` identify the rows, so that a saved cursor is refused by other data.
    """

    def __init__(self, num_rows: int, *, seed: int, shuffle: bool, name: str, digest: str) -> None:
        self._name = name
        self._identity = {"rows": num_rows, "digest": digest, "seed": seed, "shuffle": shuffle}
        self._epoch = 0
        self._position = 0
        self._order = self._order_of(0)

    def take(self, count: int) -> list[tuple[int, int]]:
        """The next `count` (epoch, row index) pairs."""
        taken = []
        while len(taken) < count:
            if self._position == len(self._order):
                self._move_to(self._epoch + 1, 0)
            end = min(self._position + count - len(taken), len(self._order))
            taken += [(self._epoch, row) for row in self._order[self._position : end]]
            self._position = end
        return taken

    def state_dict(self) -> dict[str, Any]:
        """The cursor and what it belongs to, as plain values."""
        return {**self._identity, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was saved; UserError where the rows or their order differ."""
        changed = [
            f"{key} was {state[key]}, is {value}"
            for key, value in self._identity.items()
            if state[key] != value
        ]
        if changed:
            raise UserError(
                f"{self._name}: the data is not what the checkpoint was made with "
                f"({'; '.join(changed)}); expected the same file, template, limits and seed"
            )
        self._move_to(state["epoch"], state["position"])

    def _move_to(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._order = self._order_of(epoch)

    def _order_of(self, epoch: int) -> list[int]:
        order = list(range(self._identity["rows"]))
        if self._identity["shuffle"]:
            random.Random(f"{self._identity['seed']}:{epoch}").shuffle(order)
        return order


def digest_of(rows: Iterable[tuple[object, ...]]) -> str:
    """A short fingerprint of rows, by their representation."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()[:16]
