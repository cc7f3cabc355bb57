"""The buffer of an episode's tokens, which only grows: by turns, and by what is put in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.turns import TakenAs, Turn
from megatron_stare.types import FinishReason, Sample

NO_VERSION = -1
"""Of the weights that chose a token that no policy chose."""


class Buffer:
    """What workflows do to episodes, with the tokenizer of their tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def with_turn(
        self,
        episode: Sample,
        taken_as: TakenAs,
        finish_reason: FinishReason,
        *,
        num_calls: int = 0,
        num_invalid: int = 0,
    ) -> Sample:
        """With what the model wrote since the last turn as one of its own."""
        start, size = end_of(episode.turns), len(episode.token_ids)
        text = self.decode(episode.token_ids[start:])
        turn = Turn(start, size, "model", text, taken_as, num_calls, num_invalid)
        return replace(episode, turns=(*episode.turns, turn), finish_reason=finish_reason)

    def put_in(
        self, episode: Sample, ids: tuple[int, ...], turn: Turn, sampling: SamplingConfig
    ) -> Sample:
        """With tokens that the model did not choose; it has ended where there is no room for them.

        Half of what a template writes is never put in.
        """
        size = len(episode.token_ids) + len(ids)
        if size >= sampling.max_response_tokens:
            return replace(episode, finish_reason="length")
        limit = sampling.turns.max_seconds
        is_late = limit is not None and episode.seconds > limit
        token_ids = episode.token_ids + ids
        return replace(
            episode,
            text=self.decode(token_ids),
            token_ids=token_ids,
            logprobs=episode.logprobs + (math.nan,) * len(ids),
            loss_mask=episode.loss_mask + (False,) * len(ids),
            weight_versions=episode.weight_versions + (NO_VERSION,) * len(ids),
            turns=(*episode.turns, replace(turn, end=size)),
            finish_reason="seconds" if is_late else "aborted",
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


def reminded(text: str, episode: Sample, sampling: SamplingConfig) -> str:
    """What is put in behind an episode's last turn, with how many turns are left, if that is said.

    Source: arXiv 2510.16786, whose words are not published.
    """
    limits = sampling.turns
    if not limits.reminder:
        return text
    left = limits.left(sum(turn.kind == "model" for turn in episode.turns))
    turns = "turn" if left == 1 else "turns"
    return f"{text}\n\nREMINDER: You have {left} {turns} left to complete the task."


def end_of(turns: Sequence[Turn]) -> int:
    """Where the next turn begins."""
    return turns[-1].end if turns else 0


def room_for(episode: Sample, sampling: SamplingConfig) -> int:
    """Tokens that the turn that is being written may still have."""
    room = sampling.max_response_tokens
    if (limit := sampling.turns.max_turn_tokens) is not None:
        room = min(room, end_of(episode.turns) + limit)
    return room - len(episode.token_ids)
