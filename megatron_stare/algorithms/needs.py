"""What parts of methods may need to be known of a step; `observe_step` says how it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from megatron_stare.algorithms.hooks import Need
from megatron_stare.ops.partials import TokenScores


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probs of every sample's prompt under the weights before the step; whole on every rank.

    of_samples  `[B]`, of float32 `[prompt tokens - 1]` each, on the CPU, nats: the first token of a
                prompt has none
    """

    of_samples: Sequence[Tensor]

    def at(self, tokens: slice | Tensor) -> Self:
        """The same: it is not of this rank's tokens."""
        return self


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where segments of the batch's responses begin; whole on every rank, `[R]`, on the CPU.

    values  float64: of what stands before the token that begins one; NaN elsewhere, or not known
    nodes   int64: that token's node in the tree of its group; -1 elsewhere
    """

    values: Tensor
    nodes: Tensor

    def at(self, tokens: slice | Tensor) -> Self:
        """The same: it is not of this rank's tokens."""
        return self


OLD: Need[TokenScores] = Need("scores of the policy before the step", passes=1)
"""Log-probs and entropies under the weights before the step's first update."""
REFERENCE: Need[TokenScores] = Need("scores of the reference policy", passes=1)
"""The same under the weights that the run has started from."""
ROLLOUT: Need[Tensor] = Need("log-probs of the engine", passes=0)
"""Those that the tokens were sampled with, `[r]`; anything, NaN too, under the loss mask."""
DEMONSTRATED: Need[Tensor] = Need("which tokens are of demonstrations", passes=0)
"""Bool `[r]`: tokens that the policy is to learn from, and has not chosen; under the loss mask of
the step, so that no link, no statistic and no other term counts them."""
UNTRUNCATED: Need[Tensor] = Need("log-probs of the engine under untruncated sampling", passes=0)
"""The same, where their mean estimates an entropy: neither top-p nor top-k has renormalised it."""
PROMPT_LOGPROBS: Need[PromptLogprobs] = Need("log-probs of the prompts alone", passes=0)
"""They cost a pass of each group's prompt, without its responses."""
CUTS: Need[Cuts] = Need("cuts of the responses", passes=0)
"""Given with lists (`offline`): no rollout of a run makes any yet."""
