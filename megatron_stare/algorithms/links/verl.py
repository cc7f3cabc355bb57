"""VERL: a bonus for samples whose hidden states take more directions than they used to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from megatron_stare.algorithms.hooks import Credit, Link, Metric, Need, Step
from megatron_stare.algorithms.needs import OLD, HiddenRanks
from megatron_stare.system.values import Count, PositiveWeight, Share, Weight


@dataclass(frozen=True, slots=True)
class Averages:
    """Of the rank and its two differences: before this step, and with it; none before the first."""

    before: list[float]
    after: list[float]


class Verl(Link[Averages]):
    """A + min(relu(g (w tanh d_0 + (1 - w) tanh d_1)), |A| / kappa), w = sigmoid(gain d_2).

    d_i = (x_i - m_i) / |m_i| within [-5, 5]; x_0 is the effective rank of a sample's hidden states
    after the last norm, x_1 and x_2 the means of its first and second differences as the response
    grows, and m_i averages over the steps before, m_i <- m_i + rate (mean x_i - m_i): the first
    step has no bonus. As in the authors' code it is the last token's. All three are of the last
    `longest` tokens that the policy chose, whatever stands between them, such as a tool's words; in
    their code x_0 is of the whole response, which takes a product of states for every two of its
    tokens, or an approximation. Their products are of float32, which adds to the smallest
    directions.

    Source: VERL, arXiv 2509.23808
    Status: checked against authors' code
    """

    metrics: ClassVar[Mapping[str, Metric]] = {
        "verl/effective_rank": Metric("1", "Mean effective rank of samples' hidden states."),
        "verl/rank_difference": Metric("1", "Mean of its first differences over a response."),
        "verl/rank_second_difference": Metric("1", "Mean of its second differences."),
    }

    stride: Count = 40
    """Tokens from one difference to the next."""
    longest: Count = 512
    """Tokens of a response that count, its last: two hidden states have a product each."""
    gain: PositiveWeight = 2.0
    """How fast w moves."""
    rate: Share = 0.3
    """How much of an average a step replaces."""
    kappa: float = Field(default=2.0, ge=1, le=1_000_000)
    """The bonus is at most |A| / kappa."""
    scale: Weight = 1.0
    """g."""

    @property
    def needs(self) -> frozenset[Need]:
        """The ranks, in the pass that scores the policy."""
        return frozenset({OLD, self._ranks})

    @property
    def _ranks(self) -> HiddenRanks:
        return HiddenRanks(stride=self.stride, longest=self.longest)

    def start(self) -> Averages:
        """Nothing is known."""
        return Averages([], [])

    def advance(self, state: Averages, step: Step) -> Averages:
        """Remember this step's means; those that are not finite are forgotten."""
        means = step[self._ranks].of_samples.double().mean(0)
        if not means.isfinite().all():
            return Averages(state.after, state.after)
        before = means.new_tensor(state.after or means.tolist())
        return Averages(state.after, (before + self.rate * (means - before)).tolist())

    def apply(self, credit: Credit, step: Step, state: Averages) -> Credit:
        """Add the bonus."""
        if not state.before:
            return credit
        ranks = step[self._ranks].of_samples.double()
        usual = ranks.new_tensor(state.before)
        apart = (ranks - usual) / (usual.abs() + 1e-8)
        d_rank, d_first, d_second = apart.clamp(-5, 5).nan_to_num().unbind(1)
        w = (self.gain * d_second).sigmoid()
        bonus = self.scale * (w * d_rank.tanh() + (1 - w) * d_first.tanh())
        of_tokens = step.of_samples(bonus.clamp(min=0)) * _is_last(step)
        most = credit.advantages.abs() / self.kappa
        return credit.with_advantages(credit.advantages + torch.minimum(of_tokens, most))

    def report(self, credit: Credit, step: Step, state: Averages) -> Mapping[str, float]:
        """The batch's means."""
        means = step[self._ranks].of_samples.double().mean(0).tolist()
        return dict(zip(self.metrics, means, strict=True))


def _is_last(step: Step) -> Tensor:
    """Which tokens are the last of their sample that count, `[r]`."""
    batch = step.batch
    places = torch.arange(len(batch.loss_mask)).where(batch.loss_mask, -1)
    last = torch.full((len(batch),), -1).scatter_reduce_(0, batch.sample_ids, places, "amax")
    return (step.index == last[step.sample_ids.cpu()]).to(step.mask.device)
