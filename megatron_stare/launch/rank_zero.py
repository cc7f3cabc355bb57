"""Work that one rank does for all: HTTP, files, verifiers. And errors that all ranks end with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from megatron_stare.errors import ReportedUserError, UserError


def from_rank_zero[T](function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and give its result to every rank (pickled, over gloo).

    Raises:
        UserError: on every rank, when rank 0 met one; the others raise `ReportedUserError`.
    """
    outcome: list[Any] = [None, None]
    error: UserError | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except UserError as caught:
            error, outcome[1] = caught, str(caught)
    dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise ReportedUserError(outcome[1])
    return outcome[0]


def on_every_rank(function: Callable[[], None]) -> None:
    """Run `function` on every rank, without collectives in it; an error of one is that of all.

    Raises:
        UserError: on the first rank that met one; the others raise `ReportedUserError`.
    """
    error: UserError | None = None
    try:
        function()
    except UserError as caught:
        error = caught
    texts: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(texts, None if error is None else str(error))
    first = next((rank for rank, text in enumerate(texts) if text is not None), None)
    if first is None:
        return
    if error is not None and first == dist.get_rank():
        raise error
    raise ReportedUserError(texts[first])


def common_error(text: str) -> UserError:
    """An error that every rank raises: the one of rank 0 is printed."""
    return UserError(text) if dist.get_rank() == 0 else ReportedUserError(text)
