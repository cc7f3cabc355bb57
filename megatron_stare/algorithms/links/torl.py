"""ToRL: code that does not run costs something."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_stare.algorithms.advantages import group_advantages
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.algorithms.needs import FAILED_CALLS, TURNS
from megatron_stare.system.values import Weight
from megatron_stare.types import RolloutBatch


class Torl(SampleAdvantages):
    """A = GRPO's of r - penalty, where any call of the sample has failed, else of r.

    Rewards are 1 and -1 there. The penalty is off in the paper's main runs: it made code simpler,
    and results no better.

    Source: ToRL, arXiv 2503.23383
    Status: paper
    """

    needs = frozenset({TURNS, FAILED_CALLS})

    penalty: Weight = 0.5
    """What failed calls cost a sample, however many they are."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """Of what is left of the rewards."""
        assert batch.failed_calls is not None
        of_samples = torch.zeros(len(batch), dtype=torch.int64)
        of_samples.index_add_(0, batch.sample_ids, (batch.failed_calls > 0).long())
        rewards = batch.rewards - self.penalty * (of_samples > 0)
        return group_advantages(rewards, batch.group_ids)
