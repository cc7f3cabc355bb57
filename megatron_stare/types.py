"""The nouns of a step, from a prompt to the batch the policy trains on.

Shape legend, used in every docstring of the package:
    B  samples in the global batch            G  samples per prompt (one group)
    T  prompt + response tokens of the batch  R  response tokens of the batch (`n_tokens`)
    V  vocabulary                             h  hidden size

Response-token quantities (log-probs, entropies, advantages, weights) are flat `[R]` tensors in
sample order. A token's position in that global order is its *token id for ranking*, written
`token_index`: unique over the batch, ordered by (sample, position), the same in every layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Literal

import torch
from torch import Tensor

from megatron_stare.turns import LARGEST_REWARD, Response, Turn, turn_columns

FinishReason = Literal["stop", "length", "turns", "seconds", "void", "failed", "aborted"]
"""How a sample ended.

stop     the model ended it: with its end of sequence, or with an answer
length   at the limit of tokens
turns    at the limit of turns or calls, with a call that is not made
seconds  at the limit of an episode's time
void     with a turn of neither call nor answer, for which nothing of it is learned from
failed   a tool failed for a reason that is not the model's: it is not judged
aborted  it has not ended: it was stopped, and may go on
"""
Origin = Literal["policy", "demonstration", "guide", "replay"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, rendered and tokenized. `uid` is unique inside a run."""

    uid: str
    row: str
    """Where it came from, `file:line`, for messages."""
    text: str
    token_ids: tuple[int, ...]
    answer: str
    demonstration: str = ""
    """A worked response, where the data has one."""
    demonstration_ids: tuple[int, ...] = ()
    """Its tokens, with their end; none where there is none."""
    appended: str = ""
    """What a curriculum has put behind the problem's own text: this is asked in another context."""
    propensity: float | None = None
    """Probability with which it was drawn, given what else could be; None where nothing says."""
    source: str = ""
    """Name of the set it is of, where there are several."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One response of an engine to a prompt.

    `token_ids`, `logprobs`, `loss_mask` and `weight_versions` have one entry per response token.
    `logprobs` (nats) are the engine's own, of the sampled token under the sampling temperature and
    the weights of that version. `loss_mask` is False on tokens the policy did not choose (tool
    output): there log-probs and versions mean nothing. The end-of-sequence token, when sampled, is
    part of the response. A sample that is `aborted` was stopped before its end, perhaps before its
    first token. `turns` are one after another, the whole response; without any, all of it is one
    turn of the model. One whose origin is a demonstration, or a guide, was written by no policy:
    its log-probs are NaN, and it stands where samples of the policy would have, whose version it
    has. A guide is one that is learned from as from a right sample. A replay is a sample of an
    earlier step, as it was. `temperatures` are those that tokens were drawn at: none where all were
    drawn at that of the sampling, and NaN where one was.
    """

    prompt: Prompt
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    loss_mask: tuple[bool, ...]
    finish_reason: FinishReason
    weight_versions: tuple[int, ...]
    seconds: float
    origin: Origin = "policy"
    turns: tuple[Turn, ...] = ()
    temperatures: tuple[float, ...] = ()

    @property
    def temperature_of_tokens(self) -> tuple[float, ...]:
        """Of each token; NaN where it was drawn at that of the sampling, or not drawn."""
        return self.temperatures + (math.nan,) * (len(self.token_ids) - len(self.temperatures))

    @property
    def num_chosen(self) -> int:
        """Tokens that the policy chose."""
        return sum(self.loss_mask)

    @property
    def versions(self) -> set[int]:
        """Of the weights that its tokens were chosen under."""
        return set(compress(self.weight_versions, self.loss_mask))

    @property
    def final_text(self) -> str:
        """What is judged: the model's last turn, and nothing that was put in."""
        own = [turn.text for turn in self.turns if turn.kind == "model"]
        return own[-1] if own else self.text


@dataclass(frozen=True, slots=True)
class Reward:
    """What a verifier said of a sample.

    `value` is what advantages are computed from (verdict plus shaping); `correct` is the verdict
    alone, in [0, 1]. `failure` names why the verifier gave none: such a sample has value and
    verdict 0, and is counted. Where that was not the response's doing it is not judged, and counts
    for nothing else: neither number is one. Whatever made it, a reward is a number to train on: one
    that is not finite, or beyond `LARGEST_REWARD`, is a failure.
    """

    value: float
    correct: float
    failure: str | None
    seconds: float
    is_judged: bool = True
    parts: Mapping[str, float] = field(default_factory=dict)
    """What `value` is the sum of, by name; nothing where there is no verdict."""

    def __post_init__(self) -> None:
        if not (abs(self.value) <= LARGEST_REWARD and 0 <= self.correct <= 1):
            found = f"a reward of {self.value:g} with a verdict of {self.correct:g}"
            failure = f"{found}, expected numbers within {LARGEST_REWARD:g} and from 0 to 1"
            for name, value in (("value", 0.0), ("correct", 0.0), ("failure", failure)):
                object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Group:
    """The G samples of one prompt with their rewards, index by index."""

    prompt: Prompt
    samples: tuple[Sample, ...]
    rewards: tuple[Reward, ...]

    @property
    def judged(self) -> Group:
        """The same group without the samples that are not judged."""
        return self._where([reward.is_judged for reward in self.rewards])

    @property
    def of_policy(self) -> Group:
        """The same group without demonstrations and samples of earlier steps."""
        return self._where([sample.origin == "policy" for sample in self.samples])

    def _where(self, keep: Sequence[bool]) -> Group:
        samples, rewards = compress(self.samples, keep), compress(self.rewards, keep)
        return Group(self.prompt, tuple(samples), tuple(rewards))

    @property
    def can_be_compared(self) -> bool:
        """Whether two of its samples are judged, or the only one."""
        return len(self.judged.samples) >= min(2, len(self.samples))


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Prompts with responses: ragged, flat, on the CPU, identical on every rank.

    token_ids         int64   [T]    prompt then response tokens, sample after sample
    prompt_lengths    int64   [B]    tokens
    response_lengths  int64   [B]    tokens; they sum to R
    loss_mask         bool    [R]
    """

    token_ids: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    loss_mask: Tensor

    def __len__(self) -> int:
        """B, the number of samples."""
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> Tensor:
        """Prompt + response tokens of each sample, int64 `[B]`."""
        return self.prompt_lengths + self.response_lengths

    @property
    def sample_ids(self) -> Tensor:
        """The sample of each response token, int64 `[R]`."""
        return torch.repeat_interleave(torch.arange(len(self)), self.response_lengths)

    @property
    def num_loss_tokens(self) -> Tensor:
        """Response tokens with loss mask 1 of each sample, int64 `[B]`."""
        counts = torch.zeros(len(self), dtype=torch.int64)
        return counts.index_add_(0, self.sample_ids, self.loss_mask.long())


@dataclass(frozen=True, slots=True)
class RolloutBatch(TokenBatch):
    """The global batch of a step.

    rollout_logprobs  float32 [R]    nats, from the engine; NaN where it gave none
    rewards           float32 [B]
    verdicts          float32 [B]    in [0, 1], without what shapes a reward
    group_ids         int64   [B]    samples of one prompt share an id
    demonstrated      bool    [B]    written by no policy; None where nothing is
    truncated         bool    [B]    cut off at the length limit; None where nothing is
    turns             int64   [R]    number of the model's turn, from 0; what answers it has its
                                     number; None where every sample is a single one
    guiding           bool    [B]    of these, those that are guides; None where none is
    temperatures      float32 [R]    that each token was drawn at; NaN where it was that of the
                                     sampling, and None where all were

    Of the turn that a token is in; None where no turn says anything of it:
    turn_rewards      float32 [R]    what it has earned by itself, without its sample's reward
    anchors           int64   [R]    turns that were written in the same state share a number
    roles             int64   [R]    and so do those of one player
    failed_calls      int64   [R]    calls that it made, and that did not do what they were to do
    """

    rollout_logprobs: Tensor
    rewards: Tensor
    verdicts: Tensor
    group_ids: Tensor
    demonstrated: Tensor | None = None
    truncated: Tensor | None = None
    turns: Tensor | None = None
    guiding: Tensor | None = None
    temperatures: Tensor | None = None
    turn_rewards: Tensor | None = None
    anchors: Tensor | None = None
    roles: Tensor | None = None
    failed_calls: Tensor | None = None

    @property
    def is_truncated(self) -> Tensor:
        """Whether a sample was cut off at the length limit, bool `[B]`."""
        return torch.zeros(len(self)).bool() if self.truncated is None else self.truncated

    @property
    def turn_numbers(self) -> Tensor:
        """Of each token, int64 `[R]`."""
        return torch.zeros_like(self.sample_ids) if self.turns is None else self.turns

    @property
    def is_right(self) -> Tensor:
        """Whether the verdict on a sample is right, in part at least, bool `[B]`."""
        return self.verdicts > 0

    @property
    def judged(self) -> RolloutBatch:
        """The same with demonstrations under the loss mask: what credit is given for."""
        if self.demonstrated is None:
            return self
        return replace(self, loss_mask=self.loss_mask & ~self.demonstrated[self.sample_ids])

    @property
    def tokens_of_demonstrations(self) -> tuple[Tensor, Tensor]:
        """Which counted tokens are of demonstrations, and which of guides, bool `[R]` each."""
        nothing = torch.zeros(len(self), dtype=torch.bool)
        guiding = nothing if self.guiding is None else self.guiding
        others = nothing if self.demonstrated is None else self.demonstrated & ~guiding
        return self.loss_mask & others[self.sample_ids], self.loss_mask & guiding[self.sample_ids]

    @classmethod
    def from_groups(cls, groups: Sequence[Group]) -> RolloutBatch:
        """Flatten groups, in their order, into one batch of the samples that are judged."""
        groups = [group.judged for group in groups]
        samples = [sample for group in groups for sample in group.samples]
        written = [sample.origin in ("demonstration", "guide") for sample in samples]
        demonstrated = torch.tensor(written)
        truncated = torch.tensor([sample.finish_reason == "length" for sample in samples])
        guiding = torch.tensor([sample.origin == "guide" for sample in samples])
        moved = samples if any(sample.temperatures for sample in samples) else []
        temperatures = torch.tensor(
            [t for s in moved for t in s.temperature_of_tokens], dtype=torch.float32
        )
        return cls(
            token_ids=torch.tensor(
                [t for s in samples for t in (*s.prompt.token_ids, *s.token_ids)],
                dtype=torch.int64,
            ),
            prompt_lengths=torch.tensor([len(s.prompt.token_ids) for s in samples]),
            response_lengths=torch.tensor([len(s.token_ids) for s in samples]),
            loss_mask=torch.tensor(
                [m and s.finish_reason != "void" for s in samples for m in s.loss_mask],
                dtype=torch.bool,
            ),
            rollout_logprobs=torch.tensor(
                [lp for s in samples for lp in s.logprobs], dtype=torch.float32
            ),
            rewards=torch.tensor(
                [r.value for group in groups for r in group.rewards], dtype=torch.float32
            ),
            verdicts=torch.tensor(
                [r.correct for group in groups for r in group.rewards], dtype=torch.float32
            ),
            group_ids=torch.tensor([i for i, group in enumerate(groups) for _ in group.samples]),
            demonstrated=demonstrated if demonstrated.any() else None,
            truncated=truncated if truncated.any() else None,
            **turn_columns([Response(len(s.token_ids), s.turns) for s in samples]),
            guiding=guiding if guiding.any() else None,
            temperatures=None if temperatures.isnan().all() else temperatures,
        )
