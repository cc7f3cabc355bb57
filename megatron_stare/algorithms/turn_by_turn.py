"""SeeUPO's updates: the last turns first, and what they have moved weighs those before them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Rescore, Step, Update, Updates
from megatron_stare.algorithms.needs import OLD, TURNS

LARGEST_MOVE = 10.0
"""Of a turn's mean log-prob in an update, nats."""


class TurnByTurn(Updates):
    """An update of each turn from the last to the first, with advantages A M, M = 1 at the last.

    After each, M = clamp(M clamp(s)), s = exp(mean of the turn's new - old log-prob), each within
    1 +- eps. Ratios are to the policy right before a turn's update, which is scored for it, as in
    the code: with one update a turn they are 1. A step has as many updates as its longest sample
    has turns, and as many forward passes more but one: `train.updates_per_step` does not count, and
    a learning rate that decays has done so as many times earlier.

    Source: SeeUPO, arXiv 2602.06554
    Status: checked against authors' code
    """

    needs = frozenset({OLD, TURNS})

    eps: float = Field(default=0.2, ge=0, lt=1)
    """How far M may be from 1."""

    def updates(self, step: Step, credit: Credit, rescore: Rescore) -> Iterator[Update]:
        """Of the samples that have come to a turn."""
        turns, batch, old = step[TURNS], step.batch, step[OLD]
        numbers = turns.of_tokens(turns.numbers)
        here = numbers[step.index].to(step.mask.device)
        factor: Tensor | float = 1.0
        for number in range(int(numbers.max()), -1, -1):
            counted = credit.counted & (here == number)
            learned = batch.sample_ids[(numbers == number) & batch.loss_mask].unique().tolist()
            if learned:
                advantages = credit.advantages * factor
                yield Update(learned, credit._replace(advantages=advantages, counted=counted), old)
            if learned and number:
                reached = batch.sample_ids[numbers >= number - 1].unique().tolist()
                now = rescore(reached)
                moved = self._moved(step, now.logprobs - old.logprobs, counted)
                factor, old = self._clamped(factor * moved).to(credit.advantages.dtype), now

    def _moved(self, step: Step, change: Tensor, counted: Tensor) -> Tensor:
        """s of each token's sample, `[r]`; 1 where it has no such turn."""
        by_sample = step.by(Grouping.by_sample)
        mean = by_sample.mean(change, counted).nan_to_num(0.0)
        return by_sample.of_tokens(self._clamped(mean.clamp(-LARGEST_MOVE, LARGEST_MOVE).exp()))

    def _clamped(self, ratios: Tensor) -> Tensor:
        return torch.clamp(ratios, 1 - self.eps, 1 + self.eps)
