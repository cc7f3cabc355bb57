"""Work that one rank does for all: HTTP, files, verifiers."""

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
