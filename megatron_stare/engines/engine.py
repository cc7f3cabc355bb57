"""What a rollout engine promises: requests in, samples out as they finish, weights in between.

An engine continues tokens: a prompt, or a prompt with what a sample has behind it. What a sample
is besides (turns, tools) is not its affair: it gives back what it was given, and its own tokens
behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.errors import UserError
from megatron_stare.ops.entropy_temperature import EntropyTemperature
from megatron_stare.types import FinishReason, Prompt, Sample


@dataclass(frozen=True, slots=True)
class Request:
    """A sample that an engine is asked for; to be continued where `begun` is its first part.

    max_tokens  new ones, at most; None for what the sampling's limit leaves
    stop_ids    tokens at which this one ends; None for the engine's own
    rule        moves the temperature of each of its tokens, which then has it
    """

    prompt: Prompt
    index: int
    begun: Sample | None = None
    max_tokens: int | None = None
    stop_ids: tuple[int, ...] | None = None
    rule: EntropyTemperature | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What its sample is known by in its step: the prompt's uid, and the index."""
        return self.prompt.uid, self.index

    @property
    def sample(self) -> Sample:
        """What is there, perhaps nothing yet."""
        nothing = Sample(self.prompt, self.index, "", (), (), (), "aborted", (), 0.0)
        return nothing if self.begun is None else self.begun

    @property
    def behind_prompt(self) -> tuple[int, ...]:
        """Tokens that are there."""
        return () if self.begun is None else self.begun.token_ids

    def room(self, sampling: SamplingConfig) -> int:
        """New tokens that it may have."""
        left = sampling.max_response_tokens - len(self.behind_prompt)
        return left if self.max_tokens is None else min(left, self.max_tokens)

    def answered(
        self,
        token_ids: tuple[int, ...],
        logprobs: tuple[float, ...],
        finish_reason: FinishReason,
        *,
        version: int,
        seconds: float,
        tokenizer: PreTrainedTokenizerFast,
        temperatures: tuple[float, ...] = (),
    ) -> Sample:
        """The sample, with new tokens behind what was begun."""
        before = self.sample
        whole = before.token_ids + token_ids
        if before.temperatures or temperatures:  # Parts may be from before the first rule.
            new = temperatures or (math.nan,) * len(token_ids)
            temperatures = before.temperature_of_tokens + new
        return replace(
            before,
            text=str(tokenizer.decode(list(whole), skip_special_tokens=True)),
            token_ids=whole,
            logprobs=before.logprobs + logprobs,
            loss_mask=before.loss_mask + (True,) * len(token_ids),
            finish_reason=finish_reason,
            weight_versions=before.weight_versions + (version,) * len(token_ids),
            seconds=before.seconds + seconds,
            temperatures=temperatures,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """Tokens whose log-probs are asked for: those of `token_ids` from place `start` on.

    The first of all has none: nothing stands before it.
    """

    token_ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start < len(self.token_ids):
            raise ValueError(
                f"a score from token {self.start} of {len(self.token_ids)}, expected one from 1 on "
                "that is there"
            )


def check_scores(scores: Sequence[Score], vocab_size: int) -> None:
    """See that all tokens are of the vocabulary.

    Raises:
        UserError: one is not.
    """
    for place, score in enumerate(scores):
        if min(score.token_ids) < 0 or max(score.token_ids) >= vocab_size:
            raise UserError(
                f"score {place}: token ids {min(score.token_ids)} to {max(score.token_ids)}, "
                f"expected 0 to {vocab_size - 1}, the model's vocabulary"
            )


class More(Protocol):
    """Requests that become known only while others are answered: of what the answers lead to."""

    def take(self, wait: Literal["no", "any", "all"]) -> list[Request]:
        """Those that are known now and were not taken.

        Args:
            wait: for one, where any can come; or until no other can come without an answer.
        """
        ...

    def when_known(self, tell: Callable[[], None]) -> None:
        """Have somebody told, from any thread, whenever there may be one to take."""
        ...


class NoMore:
    """All requests are known."""

    def take(self, wait: Literal["no", "any", "all"]) -> list[Request]:
        """None."""
        return []

    def when_known(self, tell: Callable[[], None]) -> None:
        """Never."""


NO_MORE: More = NoMore()


class Engine(Protocol):
    """Generates samples under the weights it was last given."""

    @property
    def weight_version(self) -> int:
        """The step whose update produced those weights; every token carries it."""
        ...

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """Yield the sample of each request, whole with what was begun, in any order.

        A pair of prompt and index comes at most once. One that never comes could not be answered;
        one stopped from outside comes with finish reason `aborted`. Closing the iterator drops what
        is still running. A sample's randomness depends on `seed`, the prompt's uid and the index
        alone.
        """
        ...

    def interrupt(self) -> None:
        """Stop what `generate` runs; may be called from another thread, and more than once.

        Samples that were running still come, `aborted`, with the tokens they have, from an engine
        that can continue them; from others they do not come.
        """
        ...

    def update_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take every tensor of the model, by Hugging Face name, and consume the iterable.

        Raises:
            ValueError: a name or a shape is not the engine's model's, or a tensor is missing.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What else its samples depend on, besides weights and requests, as plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        ...

    def close(self) -> None:
        """Release processes, connections and memory."""
        ...


class ContinuingEngine(Engine, Protocol):
    """One with a model: it takes further requests while it generates, and scores."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        *,
        seed: int,
        more: More = NO_MORE,
    ) -> Generator[Sample, None, None]:
        """See `Engine`. It ends when there are no more requests, and all are answered."""
        ...

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """Requests that have to be played together, for a sample to come to the bit again."""
        ...

    def score(self, scores: Sequence[Score]) -> list[tuple[float, ...] | None]:
        """Log-probs of given tokens under the weights that it has, at temperature 1.

        May be called while `generate` gives samples, by whoever takes them.

        Returns:
            Of each score one value a token, in nats, of float32 (NaN where a server's is not
            finite); None where it could not be answered.

        Raises:
            UserError: a token is outside the vocabulary, or has no distribution, because of the
                weights; a server refuses, or none is left.
        """
        ...
