"""How episodes with tools go on, and how they end."""

import math
from collections import Counter
from dataclasses import replace
from threading import Barrier, Event
from typing import get_args

import pytest

from megatron_stare.observe.metrics import find_metric
from megatron_stare.rollout.ledger import endings_of
from megatron_stare.rollout.turn_statistics import turn_statistics
from megatron_stare.tools.tool import ToolResult
from megatron_stare.types import FinishReason
from tests.tool_tokenizer import END_ID
from tests.unit.rollout.workflow.episodes import TOKENIZER, asked, call, play

DOWN = ToolResult("", ok=False, failure="the server is away", seconds=0.5)
WRONG = ToolResult("ZeroDivisionError", ok=False)


def turns_of(sample) -> list[tuple]:
    return [(turn.kind, turn.taken_as, turn.text) for turn in sample.turns]


def test_a_call_is_answered_and_the_model_goes_on():
    sample = play([call("6*7"), "It is 42."])
    assert turns_of(sample) == [
        ("model", "call", call("6*7")),
        ("observation", "", "42"),
        ("model", "answer", "It is 42."),
    ]
    assert (sample.finish_reason, sample.final_text) == ("stop", "It is 42.")


def test_the_tokens_are_those_of_the_conversation_as_a_whole():
    sample = play([call("6*7") + call("1+1"), "thus <think>hm</think> 42"])
    messages = [
        {"role": "user", "content": "6 * 7?"},
        {"role": "assistant", "content": call("6*7") + call("1+1")},
        {"role": "tool", "content": "42"},
        {"role": "tool", "content": "2"},
    ]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = (*TOKENIZER.encode(text + "thus <think>hm</think> 42"), END_ID)
    assert asked().token_ids + sample.token_ids == whole
    assert [turn.num_calls for turn in sample.turns] == [2, 0, 0]


def test_answers_may_be_had_without_tools():
    assert turns_of(play(["42"])) == [("model", "answer", "42")]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("<tool_call>{</tool_call>", "holds no valid JSON"),
        (call("1", "search"), "there is no tool 'search', expected one of calculator"),
    ],
)
def test_a_call_that_cannot_be_made_is_told_to_the_model(script, problem):
    sample = play([script, "42"])
    assert [turn.kind for turn in sample.turns] == ["model", "notice", "model"]
    assert problem in sample.turns[1].text
    assert (sample.turns[0].taken_as, sample.turns[0].num_invalid) == ("invalid", 1)
    assert sample.finish_reason == "stop"


def test_calls_beyond_the_limits_are_not_made_and_the_model_is_told():
    sample = play([call("1") + call("2") + call("3"), "42"], max_parallel_calls=2)
    assert sample.turns[0].num_calls == 2
    assert sample.turns[1].text == "1\n2\nnot called: 2 calls were made before it"
    sample = play([call("1"), call("2") + call("3"), call("4")], limits={"max_calls": 2})
    assert [turn.num_calls for turn in sample.turns if turn.kind == "model"] == [1, 1, 0]
    assert sample.finish_reason == "turns"


@pytest.mark.parametrize(
    ("script", "options", "ending"),
    [
        (["42"], {}, "stop"),
        ([call("1")] * 3, {"limits": {"max_turns": 3}}, "turns"),
        ([call("1"), "42"], {"limits": {"max_turns": 2}}, "stop"),
        (["x" * 50], {"max_response_tokens": 40}, "length"),
        (["x" * 50], {"limits": {"max_turn_tokens": 40}}, "length"),
        ([call("1")], {"max_response_tokens": len(call("1")) - 10}, "length"),
        ([call("1"), "42"], {"limits": {"max_seconds": 0.5}}, "seconds"),
        (["well"], {"answer_pattern": "42"}, "void"),
        (["well"], {"answer_pattern": "42", "void": "penalise"}, "stop"),
        (["well", "42"], {"answer_pattern": "42", "void": "notice"}, "stop"),
        (
            ["well"] * 2,
            {"answer_pattern": "4", "void": "notice", "limits": {"max_turns": 2}},
            "turns",
        ),
        ([call("1")], {"answer": lambda _: DOWN}, "failed"),
    ],
)
def test_every_episode_ends_in_one_of_a_closed_set_of_ways(script, options, ending):
    sample = play(script, **options)
    assert sample.finish_reason == ending
    assert sample.finish_reason in get_args(FinishReason)


def test_endings_add_up_and_what_has_not_ended_is_a_bug():
    samples = [play(["42"]), play([call("1"), "42"]), play([call("1")], answer=lambda _: DOWN)]
    metrics = turn_statistics(samples)
    ended = {name: n for name, n in metrics.items() if name.startswith("turns/ended_")}
    assert sum(ended.values()) == 3
    assert {name: n for name, n in ended.items() if n} == {
        "turns/ended_stop": 2,
        "turns/ended_failed": 1,
    }
    assert metrics["turns/mean"] == 4 / 3
    assert metrics["tools/calls_mean"] == 2 / 3
    assert metrics["tools/used_share"] == 2 / 3
    assert metrics["time/tools_s"] == 0.5
    with pytest.raises(RuntimeError, match="has no ending"):
        endings_of([replace(play(["42"]), finish_reason="aborted")])


def test_a_void_turn_is_told_to_the_model_where_it_may_go_on():
    sample = play(["well", "42"], answer_pattern="42", void="notice")
    assert [turn.kind for turn in sample.turns] == ["model", "notice", "model"]
    assert sample.turns[0].taken_as == "void"


def test_what_a_tool_says_is_cut_in_the_middle():
    sample = play(
        [call("1"), "42"],
        answer=lambda _: "x" * 300 + "y" * 300,
        limits={"max_observation_tokens": 256},
    )
    assert sample.turns[1].text == "x" * 128 + "\n...(truncated)...\n" + "y" * 128
    sample = play(
        [call("1"), "42"], answer=lambda _: "x" * 256, limits={"max_observation_tokens": 256}
    )
    assert sample.turns[1].text == "x" * 256


def test_what_does_not_fit_is_not_put_in_by_half():
    sample = play([call("1"), "42"], answer=lambda _: "x" * 100, max_response_tokens=200)
    assert sample.finish_reason == "length"
    assert [turn.kind for turn in sample.turns] == ["model"]


def test_a_call_that_fails_for_other_reasons_than_the_models_is_made_again():
    answers = iter([DOWN, DOWN, "42"])
    sample = play([call("6*7"), "42"], answer=lambda _: next(answers))
    assert sample.finish_reason == "stop"
    assert sample.turns[1].seconds == 1.0
    sample = play([call("6*7")], answer=lambda _: DOWN, max_attempts=2)
    assert (sample.finish_reason, sample.turns[-1].failure) == ("failed", "the server is away")


def test_a_tool_with_a_mistake_of_its_own_is_a_failure_and_nothing_hangs():
    sample = play([call("1/0")])
    assert sample.finish_reason == "failed"
    assert sample.turns[-1].failure == "ZeroDivisionError: division by zero"


def test_what_the_model_did_wrong_is_an_observation():
    sample = play([call("1/0"), "42"], answer=lambda _: WRONG)
    assert sample.turns[1].text == "ZeroDivisionError"
    assert turn_statistics([sample])["tools/ok_share"] == 0


def test_the_endings_of_a_sample_are_those_of_the_glossary():
    for name in turn_statistics([play([call("6*7"), "42"])]):
        find_metric(name)
    assert not math.isnan(sum(turn_statistics([play(["42"])]).values()))
    assert Counter(endings_of([play(["42"])]))["stop"] == 1


def test_calls_of_a_turn_are_made_at_the_same_time_and_answered_in_their_order():
    """Of a tool that does not remember; each waits until the other is there."""
    together = Barrier(2)
    turn = call("1+1") + call("2+2")

    def answer(expression: str) -> str:
        together.wait(timeout=60)
        if expression == "1+1":
            later.wait(timeout=60)
        else:
            later.set()
        return str(eval(expression))

    later = Event()
    sample = play([turn, "4"], answer, remembers=False)
    assert sample.turns[1].text == "2\n4"


def test_calls_of_a_tool_that_remembers_come_one_after_the_other():
    seen: list[str] = []

    def answer(expression: str) -> str:
        seen.append(expression)
        return str(len(seen))

    sample = play([call("1") + call("2") + call("3"), call("4"), "4"], answer)
    assert seen == ["1", "2", "3", "4"]
    assert [turn.text for turn in sample.turns if turn.kind == "observation"] == ["1\n2\n3", "4"]
