"""What parts of methods may need to be known of a step; `observe_step` says how it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from megatron_stare.algorithms.hooks import HeadNeed, Need
from megatron_stare.algorithms.turns import Turns
from megatron_stare.ops.partials import TokenScores
from megatron_stare.types import RolloutBatch


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
class RankDynamics:
    """How many directions the hidden states of each sample take; whole on every rank.

    of_samples  float32 `[B, 3]`, on the CPU: the effective rank, and the means of its first and
                second differences as the response grows
    """

    of_samples: Tensor

    def at(self, tokens: slice | Tensor) -> Self:
        """The same: it is not of this rank's tokens."""
        return self


@dataclass(frozen=True, slots=True)
class HiddenRanks(HeadNeed[RankDynamics]):
    """Of the states after the last norm that tokens were drawn from, `ops.effective_rank`.

    stride   tokens from one difference to the next
    longest  of a sample, its last so many tokens
    """

    name: str = "effective ranks of hidden states"
    rows: int = 3
    products: int = 0
    stride: int = 40
    longest: int = 512


@dataclass(frozen=True, slots=True)
class MinPLogprobs(HeadNeed[Tensor]):
    """Log-probs before the step without tokens less likely than kappa times the likeliest, `[r]`.

    The others are renormalised; a token that is left out has `ops.min_p.REMOVED`.
    """

    name: str = "log-probs without unlikely tokens"
    rows: int = 1
    products: int = 1
    kappa: float = 0.02


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


@dataclass(frozen=True, slots=True)
class Profiles:
    """What a profiler says of what the batch's turns have written; whole on every rank, on the CPU.

    Float64 `[N]` each, in the order of `Turns`.

    correct   whether it does what it is to do, 1 or 0
    speedup   how many times as fast it is as the reference
    coverage  the share of its time that is spent in code of the policy's own
    """

    correct: Tensor
    speedup: Tensor
    coverage: Tensor

    def at(self, tokens: slice | Tensor) -> Self:
        """The same: it is not of this rank's tokens."""
        return self


def head_products(needs: Iterable[Need[Any]]) -> int:
    """Products of hidden states and the head's weight that needs take beside those of passes."""
    return sum(need.products for need in needs if isinstance(need, HeadNeed))


OLD: Need[TokenScores] = Need("scores of the policy before the step", passes=1)
"""Log-probs and entropies under the weights before the step's first update."""
REFERENCE: Need[TokenScores] = Need("scores of the reference policy", passes=1)
"""The same under the weights that the run has started from."""
ROLLOUT: Need[Tensor] = Need("log-probs of the engine", passes=0)
"""Those that the tokens were sampled with, `[r]`; anything, NaN too, under the loss mask."""
DEMONSTRATED: Need[Tensor] = Need("which tokens are of demonstrations", passes=0)
"""Bool `[r]`: tokens that the policy is to learn from, and has not chosen; under the loss mask of
the step, so that no link, no statistic and no other term counts them."""
GUIDED: Need[Tensor] = Need("which tokens are of guides", passes=0)
"""Bool `[r]`: tokens of demonstrations that stand for right samples of another policy; under the
loss mask of the step, too, and not among those of `DEMONSTRATED`."""
UNTRUNCATED: Need[Tensor] = Need("log-probs of the engine under untruncated sampling", passes=0)
"""The same, where their mean estimates an entropy: neither top-p nor top-k has renormalised it."""
PROMPT_LOGPROBS: Need[PromptLogprobs] = Need("log-probs of the prompts alone", passes=0)
"""They cost a pass of each group's prompt, without its responses."""
CUTS: Need[Cuts] = Need("cuts of the responses", passes=0)
"""Given with lists (`offline`): no rollout of a run makes any yet."""
TURNS: Need[Turns] = Need("turns", passes=0)
"""Of every sample, with the states that they were written in; known where samples have any."""
TURN_REWARDS: Need[Turns] = Need("rewards of turns", passes=0)
"""The same, where something says what turns have earned by themselves."""
PROFILES: Need[Profiles] = Need("profiles of turns", passes=0)
"""Given with lists (`offline`): no tool of a run is a profiler yet."""
FAILED_CALLS: Need[Turns] = Need("failed calls of turns", passes=0)
"""The same, where samples have called anything."""
UNMADE: frozenset[Need[Any]] = frozenset({CUTS, PROFILES})
"""What no rollout of a run makes yet."""
ROLES: Need[Turns] = Need("roles of turns", passes=0)
"""The same, where turns say which player has written them."""


def facts_of_turns(batch: RolloutBatch) -> dict[Need[Any], Turns]:
    """What comes with a batch of its turns."""
    columns = {
        TURNS: batch.turns,
        TURN_REWARDS: batch.turn_rewards,
        FAILED_CALLS: batch.failed_calls,
        ROLES: batch.roles,
    }
    turns = Turns(batch)
    return {need: turns for need, column in columns.items() if column is not None}
