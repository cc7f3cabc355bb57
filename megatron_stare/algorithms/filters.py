"""What DAPO (arXiv 2503.14476) does before the loss: dynamic sampling, soft overlong punishment."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def has_signal(verdicts: Sequence[float]) -> bool:
    """Whether a group is kept by dynamic sampling: its verdicts differ, or it has one sample."""
    return len(verdicts) == 1 or len(set(verdicts)) > 1


def overlong_penalty(lengths: Tensor, max_tokens: int, buffer: int, factor: float) -> Tensor:
    """Added to the reward of long responses, float `[B]`, from 0 down to -factor.

    0 up to `max_tokens - buffer` tokens, then linear, -factor from `max_tokens` on (DAPO, eq. 13).
    """
    over = lengths.float() - (max_tokens - buffer)
    return -factor * (over / buffer).clamp(0.0, 1.0)
