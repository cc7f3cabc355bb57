"""Gains of turns: what is scored, whose they become, and what has none."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from megatron_stare.config.commands import TrainConfig
from megatron_stare.config.gains import TurnGainsConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.engines.engine import Request, Score
from megatron_stare.rollout.workflow.gains import GainingEngine, gains_of
from megatron_stare.rollout.workflow.playing import PlayingEngine
from megatron_stare.rollout.workflow.toolbox import Toolbox
from megatron_stare.turns import is_own
from megatron_stare.types import Sample
from tests.unit.rollout.workflow.episodes import (
    HERMES,
    TOKENIZER,
    Calculator,
    Speaker,
    asked,
    call,
    check,
    workflow,
)

TWO_CALLS = [call("6 * 7"), call("1 + 1"), "It is 42."]


class Scorer(Speaker):
    """Log-probs that follow from the tokens before: -n / 1000 of the n tokens that stand there."""

    answers: bool = True
    scored: list[Score]

    def score(self, scores: Sequence[Score]) -> list[tuple[float, ...] | None]:
        self.scored += scores
        if not self.answers:
            return [None] * len(scores)
        return [
            tuple(-place / 1000 for place in range(score.start, len(score.token_ids)))
            for score in scores
        ]


def play(script: list[str], *, answers: bool = True, **config: object) -> tuple[Sample, Scorer]:
    """An episode of one prompt with its gains, and what was scored for them."""
    engine = Scorer({"6 * 7?": script})
    engine.answers, engine.scored = answers, []
    toolbox = Toolbox(
        {"calculator": Calculator(lambda expression: str(eval(expression)))},
        deadline_s=5.0,
        max_attempts=1,
        report=lambda _: None,
    )
    player = PlayingEngine(engine, workflow(), toolbox)
    settings = TurnGainsConfig.model_validate(config)
    gains = gains_of(settings, TOKENIZER, HERMES)
    assert gains is not None
    gaining = GainingEngine(player, engine, gains, as_probability=settings.as_probability)
    sampling = SamplingConfig(max_response_tokens=2000)
    (sample,) = gaining.generate([Request(asked(), 0)], sampling, seed=0)
    check(sample)
    return sample, engine


def parts_of(score: Score) -> tuple[str, str]:
    """What stands before the scored tokens, and they."""
    ids = list(score.token_ids)
    return TOKENIZER.decode(ids[: score.start]), TOKENIZER.decode(ids[score.start :])


def mean(score: Score) -> float:
    size = len(score.token_ids) - score.start
    return -(score.start + (size - 1) / 2) / 1000


def rewards_of(sample: Sample) -> list[float | None]:
    return [turn.reward for turn in sample.turns if is_own(turn)]


def test_the_answer_is_scored_before_each_turn():
    sample, engine = play(TWO_CALLS, of="answer", closing="So: ")
    first, second, third = sorted(engine.scored, key=lambda score: score.start)
    starts = [turn.start for turn in sample.turns if is_own(turn)]
    whole = sample.prompt.token_ids + sample.token_ids
    for score, start in zip((first, second, third), starts, strict=True):
        before, answer = parts_of(score)
        read = whole[: len(sample.prompt.token_ids) + start]
        assert before == TOKENIZER.decode(list(read)) + "So: "
        assert answer == "42"
    assert rewards_of(sample) == [
        pytest.approx(mean(second) - mean(first)),
        pytest.approx(mean(third) - mean(second)),
        0.0,
    ]


def test_a_gain_can_be_one_of_probability():
    sample, engine = play(TWO_CALLS, of="answer", as_probability=True)
    first, second, third = sorted((math.exp(mean(s)) for s in engine.scored), reverse=True)
    assert rewards_of(sample) == [
        pytest.approx(second - first),
        pytest.approx(third - second),
        0.0,
    ]


def test_the_next_turn_is_scored_behind_what_was_told_and_behind_nothing():
    sample, engine = play(TWO_CALLS, of="next_turn", nothing="Nothing.")
    told, nothing, *_ = engine.scored
    before_told, own = parts_of(told)
    before_nothing, same = parts_of(nothing)
    assert own == same == TOKENIZER.decode(list(sample.token_ids[slice(*bounds(sample, 2))]))
    assert "42" in before_told
    assert before_told.replace("\n42", "\nNothing.") == before_nothing
    assert before_told != before_nothing
    first, second, last = rewards_of(sample)
    assert first == pytest.approx(mean(told) - mean(nothing))
    assert second == pytest.approx(mean(engine.scored[2]) - mean(engine.scored[3]))
    assert last == 0.0


def bounds(sample: Sample, place: int) -> tuple[int, int]:
    return sample.turns[place].start, sample.turns[place].end


@pytest.mark.parametrize("of", ["answer", "next_turn"])
def test_a_single_turn_gains_nothing_and_asks_nothing(of):
    sample, engine = play(["It is 42."], of=of)
    assert rewards_of(sample) == [0.0]
    assert engine.scored == []


def test_what_is_not_scored_is_not_judged():
    sample, _ = play(TWO_CALLS, answers=False, of="answer")
    assert sample.finish_reason == "failed"
    assert sample.turns[-1].failure == "no server scored what its turns have gained"
    assert not any(rewards_of(sample))


def test_without_a_setting_there_are_none():
    assert gains_of(TurnGainsConfig(), TOKENIZER, HERMES) is None


TOOLS = {"workflow": {"format": "hermes"}, "tools": {"names": ["calculator"]}}


AGENT = {"workflow": {"agent": {"function": "a:b"}}, "algorithm": {"method": "infopo"}}
IGPO = {"algorithm": {"method": "igpo"}}


@pytest.mark.parametrize(
    ("changes", "of", "message"),
    [
        (IGPO, "answer", "of='answer' with workflow.format=null: .* call tools, or an agent"),
        (AGENT, "next_turn", "of='next_turn' with workflow.format=null: .* call tools$"),
        (
            TOOLS | {"algorithm": {"method": "grpo"}},
            "answer",
            "of='answer': no part of the method reads rewards of turns",
        ),
        (
            IGPO | {"data": {"sources": {"a": {"path": __file__, "environment": {"name": "a:B"}}}}},
            "answer",
            "of='answer' with data.sources.a.environment",
        ),
    ],
)
def test_gains_that_nobody_has_or_reads_are_refused(changes, of, message):
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(config(changes, of))
    assert re.search(message, caught.value.errors()[0]["msg"])


def test_with_gains_a_run_with_tools_may_use_methods_that_read_rewards_of_turns():
    for method, of in (("igpo", "answer"), ("infopo", "next_turn")):
        changes = TOOLS | {"algorithm": {"method": method}}
        found = TrainConfig.model_validate(config(changes, of=of))
        assert found.rollout.turn_gains.of == of


def config(changes: dict[str, object], of: str = "answer") -> dict[str, object]:
    return {
        "model": {"path": "/tmp"},
        "run": {"dir": "/tmp/run"},
        "data": {"path": __file__, "template": "chat"},
        "reward": {"kind": "exact"},
        "rollout": {"turn_gains": {"of": of}},
    } | changes
