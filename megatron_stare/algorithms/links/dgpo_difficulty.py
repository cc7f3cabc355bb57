"""DGPO (difficulty-aware): every group moves the policy as far, hard ones a little farther."""

from __future__ import annotations

from torch import Tensor

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.links.group_baselines import SampleAdvantages
from megatron_stare.system.values import PositiveWeight
from megatron_stare.types import RolloutBatch


class DgpoDifficulty(SampleAdvantages):
    """A = w (T / T') G (r - mean) / (sum |r - mean| + 1e-4), w = n' softmax(-mean / temperature).

    T are the batch's tokens; T', n' and the softmax are of the groups whose rewards differ. There,
    a mean of 0 is taken for 1. Tokens are the batch's; the code weighs and counts on each process.

    Source: MathForge's DGPO, arXiv 2601.20614
    Status: checked against authors' code
    """

    temperature: PositiveWeight = 2.0
    """Of the softmax over prompts: the smaller, the more hard ones weigh."""

    def of_samples(self, batch: RolloutBatch) -> Tensor:
        """0 where all rewards of a group are equal."""
        rewards, lengths = batch.rewards.double(), batch.num_loss_tokens.double()
        groups = Groups(batch.group_ids)
        centred, mean = groups.centred(rewards), groups.mean(rewards)
        spread = groups.sum(centred.abs())
        differs = spread > 0
        if not differs.any():
            return centred
        tokens = lengths.sum() / lengths[differs].sum().clamp(min=1)
        # A group's part of a sum over groups is spread over its samples.
        part = groups.size.double().reciprocal()
        difficulty = -mean.where(mean != 0, 1.0) / self.temperature
        total = (difficulty + part.log())[differs].logsumexp(0)
        weight = part[differs].sum() * (difficulty - total).clamp(max=0).exp()
        return weight * tokens * groups.size * centred / (spread + 1e-4)
