"""What DAPO (arXiv 2503.14476) does before the loss: dynamic sampling, soft overlong punishment."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_stare.algorithms.hooks import Filter
from megatron_stare.types import Group


class Mixed(Filter):
    """Keeps a group whose verdicts differ: from the others no advantage comes.

    A group of one is kept, too. Samples without a verdict do not count.

    Source: DAPO, arXiv 2503.14476, section 3.2
    Status: checked against authors' code
    """

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or None."""
        return group if has_signal([reward.correct for reward in group.judged.rewards]) else None


class NotAllRight(Filter):
    """Keeps a group unless every verdict is right, so that failures alone are learned from, too.

    Source: NGRPO, arXiv 2509.18851
    Status: paper
    """

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or None."""
        return None if all(reward.correct == 1 for reward in group.judged.rewards) else group


def has_signal(verdicts: Sequence[float]) -> bool:
    """Whether a group is kept by dynamic sampling: its verdicts differ, or it has one sample."""
    return len(verdicts) == 1 or len(set(verdicts)) > 1


def overlong_penalty(lengths: Tensor, max_tokens: int, buffer: int, factor: float) -> Tensor:
    """Added to the reward of long responses, float `[B]`, from 0 down to -factor.

    0 up to `max_tokens - buffer` tokens, then linear, -factor from `max_tokens` on (DAPO, eq. 13).
    """
    over = lengths.float() - (max_tokens - buffer)
    return -factor * (over / buffer).clamp(0.0, 1.0)
