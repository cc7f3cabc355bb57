"""What Megatron's schedule minimises: a loss over the tokens of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megatron_stare.ops.partials import TokenScores


@dataclass(frozen=True, slots=True)
class MicroBatchOutput:
    """What is kept of a micro-batch when it is done."""

    scores: Tensor  # [4 + k, r_micro_batch], those of `TokenScores` and what else was measured
    sums: Tensor  # [1 + stats], float64: loss, then the objective's statistics


class Objective(Protocol):
    """A loss over tokens. The sum of its values over all tokens of an update is what is minimised:
    it brings its own denominators, so nothing downstream divides."""

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Names of the statistics, in order."""
        ...

    @property
    def differentiates_entropy(self) -> bool:
        """Whether the loss has a gradient by the entropies, too."""
        ...

    def __call__(self, scores: TokenScores, tokens: slice) -> tuple[Tensor, Tensor]:
        """The loss (scalar) of one micro-batch and its statistics `[len(stat_names)]`, detached.

        `tokens` is where the micro-batch stands in this rank's flat order.
        """
        ...


def loss_of(
    objective: Objective | None,
    tokens: slice,
    measured: Sequence[Tensor],
    output: TokenScores,
) -> tuple[Tensor, Tensor, MicroBatchOutput]:
    """What Megatron's schedule asks of a loss: (loss, num_tokens, anything to keep).

    `num_tokens` would divide the gradient; the objective has its own denominators, and
    `sum_gradients` ignores the count.
    """
    detached = torch.cat([torch.stack(output).detach(), *measured])
    uncounted = torch.zeros((), dtype=torch.int, device=detached.device)
    if objective is None:
        return output.logprobs.sum(), uncounted, MicroBatchOutput(detached, detached.new_zeros(1))
    # What the head gives no gradient, an objective must not seem to have one by.
    entropies = output.entropies if objective.differentiates_entropy else detached[1]
    loss, stats = objective(TokenScores(output.logprobs, entropies, *detached[2:4]), tokens)
    sums = torch.cat([loss.detach().reshape(1), stats]).double()
    return loss, uncounted, MicroBatchOutput(detached, sums)
