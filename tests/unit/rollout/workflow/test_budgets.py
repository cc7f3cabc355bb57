"""Budgets of turns: percentiles to set limits by, reminders of what is left, extensions."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from megatron_stare.config.workflow import TurnsConfig
from megatron_stare.rollout.turn_statistics import turn_statistics
from tests.unit.rollout.workflow.episodes import TOKENIZER, call, play

CALLS = [call(f"{n} + 1") for n in range(5)]


def read_by_the_model(sample) -> list[str]:
    """What was put in, as the model reads it."""
    return [
        TOKENIZER.decode(list(sample.token_ids[turn.start : turn.end]))
        for turn in sample.turns
        if turn.kind != "model"
    ]


def left_in(sample) -> list[int | None]:
    """The turns that each text that was put in says are left."""
    found = []
    for text in read_by_the_model(sample):
        _, reminder, behind = text.partition("REMINDER: You have ")
        found.append(int(behind.split()[0]) if reminder else None)
    return found


def test_without_a_setting_nothing_is_said():
    assert left_in(play([*CALLS[:2], "2"], limits={"max_turns": 4})) == [None, None]


def test_each_observation_says_how_many_turns_are_left():
    sample = play([*CALLS[:3], "3"], limits={"max_turns": 4, "reminder": True})
    assert left_in(sample) == [3, 2, 1]
    last = read_by_the_model(sample)[-1]
    assert "\n3\n\nREMINDER: You have 1 turn left to complete the task.\n" in last


def test_turns_keep_what_tools_said_and_nothing_else():
    sample = play([*CALLS[:2], "2"], limits={"max_turns": 4, "reminder": True})
    assert [turn.text for turn in sample.turns if turn.kind == "observation"] == ["1", "2"]


def test_a_notice_says_it_too():
    limits = {"max_turns": 3, "reminder": True}
    sample = play(
        ["hm", call("1 + 1", "search"), "2"], limits=limits, void="notice", answer_pattern="^[0-9]"
    )
    assert [turn.kind for turn in sample.turns][1::2] == ["notice", "notice"]
    assert left_in(sample) == [2, 1]


def test_whoever_has_taken_the_first_turns_is_granted_more():
    limits = {"max_turns": 6, "reminder": True, "first_turns": 2, "extension": 3}
    assert left_in(play([*CALLS, "5"], limits=limits)) == [1, 3, 2, 1, 1]


def test_percentiles_are_those_of_unrestricted_episodes():
    samples = []
    for num_turns in (12, 18, 20, 25, 31, 40, 44, 60):
        calls = [call("1 + 1")] * (num_turns - 1)
        limits = {"max_turns": 100, "max_calls": 100}
        samples.append(play([*calls, "2"], limits=limits, max_response_tokens=100_000))
    metrics = turn_statistics(samples)
    assert [metrics[f"turns/p{share}"] for share in (25, 50, 75)] == [19.5, 28.0, 41.0]


@pytest.mark.parametrize(
    "limits",
    [{"first_turns": 3}, {"first_turns": 9, "max_turns": 8, "reminder": True}],
)
def test_first_turns_that_nobody_is_told_of_are_refused(limits):
    with pytest.raises(ValidationError, match=r"first_turns=\d with reminder=(true|false), max"):
        TurnsConfig.model_validate(limits)
