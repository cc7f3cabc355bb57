"""Better and worse samples of a prompt: a loss of how far apart the policy holds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from megatron_stare.algorithms.advantages import Groups
from megatron_stare.algorithms.batch_stats import Grouping
from megatron_stare.algorithms.hooks import Credit, Link, Mark, Step
from megatron_stare.algorithms.needs import OLD
from megatron_stare.system.values import PositiveWeight
from megatron_stare.types import RolloutBatch

PAIR_LOSS = Mark("pair_loss")
"""The mean loss of the pairs that a token's group makes."""


class Compared(NamedTuple):
    """The P pairs of a step's B samples; float64 where no dtype is named.

    better, worse  int64 `[P]`, the samples
    losses         `[P]`
    means          `[B]`: of the losses of the sample's group; 0 where it makes no pairs
    logprobs       `[B]`: of the samples before the step, nats
    rewards        `[B]`: their implicit ones
    slopes         `[B]`: of the sum of `means` by the log-prob of a token
    """

    better: Tensor
    worse: Tensor
    losses: Tensor
    means: Tensor
    logprobs: Tensor
    rewards: Tensor
    slopes: Tensor


class Pairs(Link[None]):
    """A loss of r_better - r_worse, r the implicit reward that the policy gives to a sample.

    Every two samples of a group whose rewards differ are a pair. The loss is the mean over a
    group's pairs, and over groups, which weigh by their samples that have tokens. As it couples
    samples it stands here by its value, a mark, and its slope, which with its sign turned is the
    advantage; `tangent` is the term that learns from the two.
    """

    makes_advantages = True
    needs = frozenset({OLD})
    marks = frozenset({PAIR_LOSS})
    is_mean: ClassVar[bool] = False
    """Whether a sample's reward is a mean over its tokens, and not their sum."""

    beta: PositiveWeight
    """What scales implicit rewards: the larger, the nearer two that are far enough apart."""

    def evidence(self, step: Step) -> Tensor:
        """What each token adds to its sample's reward, before `beta`: its log-prob, and more."""
        raise NotImplementedError

    def losses(self, margins: Tensor) -> Tensor:
        """Of pairs whose rewards are so far apart, `[P]`."""
        raise NotImplementedError

    def compare(self, step: Step) -> Compared:
        """The pairs of a step, compared once."""
        return step.once(self, lambda: self._compared(step))

    def _compared(self, step: Step) -> Compared:
        batch, of_samples = step.rollouts, step.by(Grouping.by_sample)
        groups, lengths = Groups(batch.group_ids), batch.num_loss_tokens.double()
        better, worse = pairs_of(batch)

        def of_groups(of_pairs: Tensor) -> Tensor:
            return groups.sum(torch.zeros_like(lengths).index_add(0, better, of_pairs))

        scale = self.beta / lengths.clamp(min=1) if self.is_mean else self.beta
        rewards = scale * of_samples.sum(self.evidence(step)).cpu()
        with torch.enable_grad():
            leaf = rewards.clone().requires_grad_()
            losses = self.losses(leaf[better] - leaf[worse])
            means = of_groups(losses) / of_groups(torch.ones_like(losses)).clamp(min=1)
            (slopes,) = torch.autograd.grad(means[lengths > 0].sum(), leaf)
        logprobs = of_samples.sum(step[OLD].logprobs).cpu()
        known = (losses.detach(), means.detach(), logprobs, rewards, slopes * scale)
        return Compared(better, worse, *known)

    def apply(self, credit: Credit, step: Step, state: None) -> Credit:
        """Advantages whose mean over a sample's tokens is that of `tangent`; the mark."""
        found, lengths = self.compare(step), step.rollouts.num_loss_tokens
        step.facts[PAIR_LOSS] = step.of_samples(found.means).to(credit.weights.dtype)
        return credit.with_advantages(step.of_samples(-found.slopes * lengths))

    def report(self, credit: Credit, step: Step, state: None) -> Mapping[str, float]:
        """What the policy before the step thinks of the pairs; NaN where there are none."""
        return self.measure(step)

    def measure(self, step: Step) -> dict[str, float]:
        """Means over the pairs of a step."""
        better, worse, losses, _, logprobs, rewards, _ = self.compare(step)
        margins = rewards[better] - rewards[worse]
        means = {
            "loss": losses,
            "accuracy": (margins > 0).double(),
            "margin": margins,
            "reward_chosen": rewards[better],
            "reward_rejected": rewards[worse],
            "logprob_chosen": logprobs[better],
            "logprob_rejected": logprobs[worse],
        }
        return {f"pairs/{name}": float(values.mean()) for name, values in means.items()}


_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda margins: softplus(-margins),
    "hinge": lambda margins: (1 - margins).relu(),
}


class Ranked(Pairs):
    """The loss is that of a classifier: which of the two is the better one."""

    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    """-log sigmoid(z), or max(0, 1 - z), of a margin z."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that are taken to be the wrong way round: the loss is (1 - s) f(z) + s
    f(-z)."""

    @property
    def target(self) -> float:
        """What margins are measured from."""
        return 0.0

    def losses(self, margins: Tensor) -> Tensor:
        """Of pairs whose rewards are so far apart, `[P]`."""
        found, beyond = _LOSSES[self.loss], margins - self.target
        losses = (1 - self.label_smoothing) * found(beyond)
        return losses + self.label_smoothing * found(-beyond) if self.label_smoothing else losses


def pairs_of(batch: RolloutBatch) -> tuple[Tensor, Tensor]:
    """Every two samples of a group whose rewards differ, better and worse: int64 `[P]` each.

    Samples without a token that counts are none of a pair.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for sample in batch.num_loss_tokens.nonzero()[:, 0].tolist():
        members[int(batch.group_ids[sample])].append(sample)
    rewards = batch.rewards.tolist()
    pairs = [
        (a, b) if rewards[a] > rewards[b] else (b, a)
        for samples in members.values()
        for a, b in combinations(samples, 2)
        if rewards[a] != rewards[b]
    ]
    better, worse = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return better, worse
