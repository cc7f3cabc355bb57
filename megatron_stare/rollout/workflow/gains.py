"""What turns have found out: how much likelier they have made the answer, or the turn behind them.

An episode that has ended is scored as a whole, by the engine that its player plays on and under the
weights that this has then. A turn's gain becomes its reward; of the last turn there is none, since
what it is worth is the sample's reward.

Sources: arXiv 2510.14967 for the answer, arXiv 2603.00656 for the next turn, whose code pads what
stands for nothing, or cuts it, to the length of what was there; here it has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from megatron_stare.config.gains import TurnGainsConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.data.special_text import SpecialText
from megatron_stare.engines.around import EngineAround
from megatron_stare.engines.engine import ContinuingEngine, Engine, Request, Score
from megatron_stare.rollout.workflow.formats import Format
from megatron_stare.turns import Turn, is_own
from megatron_stare.types import Sample


class Gain(NamedTuple):
    """Of the turn at a place of the episode's: what is likelier `behind` it than `without`."""

    place: int
    behind: Score
    without: Score


Gains = Callable[[Sample], list[Gain]]
"""Those of an episode: of turns of the model that another one comes after."""


class AnswerGains:
    """How much likelier each turn has made the answer, which stands behind `closing`."""

    def __init__(self, closing: str, tokenizer: PreTrainedTokenizerFast) -> None:
        self._closing = tuple(tokenizer.encode(closing, add_special_tokens=False))
        self._special = SpecialText(tokenizer, of_any_kind=True)

    def __call__(self, episode: Sample) -> list[Gain]:
        """See `Gains`; none where there is no answer."""
        hidden = self._special.hide(episode.prompt.answer)
        answer = tuple(self._special.encode(hidden, add_special_tokens=False))
        if not answer:
            return []

        def score_before(turn: Turn) -> Score:
            before = episode.prompt.token_ids + episode.token_ids[: turn.start] + self._closing
            return Score(before + answer, len(before))

        return [
            Gain(place, score_before(after), score_before(turn))
            for (place, turn), (_, after) in pairwise(_own(episode))
        ]


class NextTurnGains:
    """How much likelier each next turn is than if its calls had all been answered by `nothing`."""

    def __init__(self, nothing: str, written: Format) -> None:
        self._nothing = nothing
        self._format = written

    def __call__(self, episode: Sample) -> list[Gain]:
        """See `Gains`; none of turns without calls."""
        ids, gains = episode.token_ids, []
        for (place, turn), (_, after) in pairwise(_own(episode)):
            calls = self._format.read(ids[turn.start : turn.end], can_call=True).calls
            if calls:
                texts = [self._nothing] * len(calls)
                nothing = self._format.reply(texts, last_token=ids[turn.end - 1])
                told, own = ids[turn.end : after.start], ids[after.start : after.end]
                until = episode.prompt.token_ids + ids[: turn.end]
                starts = (until + told, until + nothing)
                gains.append(Gain(place, *(Score(start + own, len(start)) for start in starts)))
        return gains


def gains_of(
    config: TurnGainsConfig, tokenizer: PreTrainedTokenizerFast, written: Format | None
) -> Gains | None:
    """As the config says; None where turns earn nothing.

    Args:
        written: how calls are written, for gains of the next turn.
    """
    if config.of == "answer":
        return AnswerGains(config.closing, tokenizer)
    if config.of == "next_turn" and written is not None:
        return NextTurnGains(config.nothing, written)
    return None


class GainingEngine(EngineAround[Engine]):
    """A player, whose episodes have gains as rewards of their turns.

    Args:
        scoring: the engine that it plays on.
        as_probability: whether a gain is a difference of e to the mean log-prob.
    """

    def __init__(
        self, player: Engine, scoring: ContinuingEngine, gains: Gains, *, as_probability: bool
    ) -> None:
        super().__init__(player)
        self._scoring = scoring
        self._gains = gains
        self._as_probability = as_probability

    def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig, *, seed: int
    ) -> Generator[Sample, None, None]:
        """See `Engine`. An episode that cannot be scored has failed."""
        with closing(self._engine.generate(requests, sampling, seed=seed)) as samples:
            for sample in samples:
                has_ended = sample.finish_reason not in ("aborted", "failed")
                yield self._scored(sample) if has_ended and sample.turns else sample

    def _scored(self, episode: Sample) -> Sample:
        gains = self._gains(episode)
        asked = list(dict.fromkeys(score for gain in gains for score in gain[1:]))
        said = dict(zip(asked, self._scoring.score(asked), strict=True)) if asked else {}
        turns = [replace(turn, reward=0.0) if is_own(turn) else turn for turn in episode.turns]
        for gain in gains:
            behind, without = (self._likeliness(said[score]) for score in gain[1:])
            if not math.isfinite(behind - without):
                return _failed(episode)
            turns[gain.place] = replace(turns[gain.place], reward=behind - without)
        return replace(episode, turns=tuple(turns))

    def _likeliness(self, logprobs: Sequence[float] | None) -> float:
        """The mean log-prob, or e to it; NaN where there are none."""
        if logprobs is None:
            return math.nan
        mean = math.fsum(logprobs) / len(logprobs)
        return math.exp(mean) if self._as_probability else mean


def _failed(episode: Sample) -> Sample:
    """One that is not judged, which says why."""
    size = len(episode.token_ids)
    turn = Turn(size, size, "observation", failure="no server scored what its turns have gained")
    return replace(episode, turns=(*episode.turns, turn), finish_reason="failed")


def _own(episode: Sample) -> list[tuple[int, Turn]]:
    """Turns of the model, and their places."""
    return [(place, turn) for place, turn in enumerate(episode.turns) if is_own(turn)]
