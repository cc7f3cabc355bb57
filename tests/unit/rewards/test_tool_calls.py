"""Rewards of calls by those of a reference: the authors' numbers, and what can go wrong."""

from __future__ import annotations

import pytest

from megatron_stare.algorithms.offline import run_links
from megatron_stare.rewards.tool_calls import answer_f1, call_rewards, similarity

WANTED = [("search", {"query": "a", "k": 3}), ("calc", {"expr": "1+1"})]
CALLS = [
    ("search", {"query": "a", "top": 3}),
    ("search", {"query": "b", "k": 3}),
    ("Calc", {"expr": "1+1"}),
]


def test_golden_similarity():
    found = [[similarity(call, wanted) for wanted in WANTED] for call in CALLS]
    expected = [[0.583333, 0.0], [0.75, 0.0], [0.0, 1.0]]
    assert found == [pytest.approx(row, abs=1e-6) for row in expected]


def test_golden_rewards_by_pairs_and_by_transport():
    assert call_rewards(CALLS, WANTED) == [0.0, 0.75, 1.0]
    found = call_rewards(CALLS, WANTED, "transport")
    assert found == pytest.approx([0.118299, 0.222901, 0.333333], abs=1e-6)


def test_golden_f1_of_an_answer():
    assert answer_f1("The answer is 42.", "42") == 0.4
    assert [answer_f1(*pair) for pair in (("", "42"), ("42", ""), ("no", "42"))] == [0, 0, 0]


def test_without_calls_or_references_nothing_is_earned():
    for matching in ("pairs", "transport"):
        assert call_rewards([], WANTED, matching) == []
        assert call_rewards(CALLS, [], matching) == [0.0] * 3
        assert call_rewards([("other", {})], WANTED, matching) == [0.0]


def test_a_reference_is_given_away_once_and_ties_go_to_the_first():
    same = [("calc", {"expr": "1+1"})] * 3
    assert call_rewards(same, same[:2]) == [1.0, 1.0, 0.0]
    assert similarity(("now", {}), ("now", {})) == 1.0
    assert similarity(("now", {"tz": None}), ("now", {})) == 0.5
    assert similarity(("now", {}), ("now", {"tz": None})) == pytest.approx(1 / 3)


def test_arguments_may_be_anything_that_json_says():
    nested = ("plot", {"points": [[1, 2], {"x": None}], "title": {"text": "a"}})
    assert call_rewards([nested], [nested], "pairs") == [1.0]


def test_turns_that_call_what_they_should_are_preferred():
    """With MatchTIR's dual advantage."""
    rows = [call_rewards(CALLS[1:], WANTED), call_rewards(CALLS[:1], WANTED)]
    samples = [
        {"reward": answer_f1("42", "42"), "group": 0, "logprobs": [-1.0] * 2, "turns": [0, 1]}
        | {"turn_rewards": [sum(rewards) / len(rewards), 0]}
        for rewards in rows
    ]
    better, worse = run_links("match_tir", samples)[0]["advantages"]
    assert better[0] > 0 > worse[0]
