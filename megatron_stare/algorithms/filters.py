"""Which groups are trained on; and DAPO's soft overlong punishment (arXiv 2503.14476)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from megatron_stare.algorithms.hooks import Filter, Need
from megatron_stare.algorithms.needs import DEMONSTRATED, GUIDED
from megatron_stare.system.values import CountOrZero
from megatron_stare.types import Group, Reward, Sample


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


class FallBack(Filter):
    """The prompt's demonstration, alone, in the place of a group with at most `gate` right samples.

    With more of them, but at most `guide_gate`, it is a guide: `guide_gradient` learns from it by
    policy gradient, in the place of `demonstration_nll`. A group whose prompt has none stays as it
    is. The authors' scripts open no second gate; their code's own default is 2.

    Source: HPT, arXiv 2509.04419
    Status: checked against authors' code
    """

    gate: CountOrZero = 0
    """Most right samples of a group that a demonstration replaces."""
    guide_gate: CountOrZero = 0
    """Most right samples of one that a guide replaces; none is unless this is more."""

    @property
    def needs(self) -> frozenset[Need[Any]]:
        """What it makes, so that a term has to learn from it."""
        return frozenset({DEMONSTRATED, *([GUIDED] if self.guide_gate > self.gate else [])})

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or one of its demonstration."""
        prompt = group.prompt
        num_right = sum(reward.correct == 1 for reward in group.judged.rewards)
        if num_right > max(self.gate, self.guide_gate) or not prompt.demonstration_ids:
            return group
        length = len(prompt.demonstration_ids)
        version = max(max(sample.versions, default=0) for sample in group.samples)
        demonstration = Sample(
            prompt,
            index=0,
            text=prompt.demonstration,
            token_ids=prompt.demonstration_ids,
            logprobs=(math.nan,) * length,
            loss_mask=(True,) * length,
            finish_reason="stop",
            weight_versions=(version,) * length,
            seconds=0.0,
            origin="guide" if num_right > self.gate else "demonstration",
        )
        return Group(prompt, (demonstration,), (Reward(1.0, 1.0, None, 0.0),))


class NotAllWrong(Filter):
    """Keeps a group unless every verdict is wrong, so that successes alone are learned from, too.

    Source: the mirror image of `not_all_right`
    Status: derived
    """

    def filter(self, group: Group) -> Group | None:
        """The group as it is, or None."""
        return None if all(reward.correct == 0 for reward in group.judged.rewards) else group


def has_signal(verdicts: Sequence[float]) -> bool:
    """Whether a group is kept by dynamic sampling: its verdicts differ, or it has one sample."""
    return len(verdicts) == 1 or len(set(verdicts)) > 1


def overlong_penalty(lengths: Tensor, max_tokens: int, buffer: int, factor: float) -> Tensor:
    """Added to the reward of long responses, float `[B]`, from 0 down to -factor.

    0 up to `max_tokens - buffer` tokens, then linear, -factor from `max_tokens` on (DAPO, eq. 13).
    """
    over = lengths.float() - (max_tokens - buffer)
    return -factor * (over / buffer).clamp(0.0, 1.0)
