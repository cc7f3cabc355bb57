"""What a format's pattern sees, and what is said when it never matches."""

from __future__ import annotations

import re

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.rewards.answers import exact_reward
from megatron_stare.rewards.format import FIRST_STEPS, FormatWatch, matches_format
from megatron_stare.rewards.scorer import Scorer
from megatron_stare.rewards.worker import judge
from tests.unit.rewards.test_scorer import make_samples

PATTERN = "<think>.*</think>.*"
BEGUN = "Two.\n</think>\n\\boxed{2}"


@pytest.mark.parametrize(
    ("response", "prefill", "matches"),
    [
        (BEGUN, "<think>\n", True),
        (BEGUN, "", False),
        (BEGUN, None, True),
        (f"<think>\n{BEGUN}", "", True),
        (f"<think>\n{BEGUN}", None, True),
        ("Two.", "<think>\n", False),
        ("Two.", None, False),
        ("<b>Two</b>.</think>", None, False),
    ],
)
def test_a_pattern_sees_what_the_prompt_has_begun(response, prefill, matches):
    assert matches_format(re.compile(PATTERN, re.DOTALL), response, prefill) == matches


def test_a_verdict_of_a_prompt_that_is_not_known_sees_an_unopened_tag_as_opened():
    pattern = re.compile(PATTERN, re.DOTALL)
    assert judge(exact_reward, pattern, BEGUN, "2").matches_format


@pytest.mark.parametrize(
    ("format_sees", "values"), [("response", [1.0, 0.0]), ("prefill+response", [1.5, 0.5])]
)
def test_the_reward_is_of_what_format_sees_says(format_sees, values):
    config = RewardConfig(
        kind="exact",
        format_pattern=PATTERN,
        format_reward=0.5,
        format_sees=format_sees,
        workers=1,
    )
    with Scorer(config, max_response_tokens=10, prefill="<think>\n") as scorer:
        rewards = scorer.score(make_samples([(BEGUN, "2"), (BEGUN, "3")]))
    assert [reward.value for reward in rewards] == values


def steps_until_said(matching: list[int], num_steps: int, pattern: str | None = PATTERN) -> list:
    said: list[tuple[int, str]] = []
    step = 0
    watch = FormatWatch(pattern, lambda text: said.append((step, text)))
    for step, num_matching in enumerate(matching, start=1):
        watch.see(num_judged=8, num_matching=num_matching)
        watch.end_step(is_last=step == num_steps)
    return said


def test_a_pattern_that_matches_nothing_is_said_once_after_the_first_steps():
    [(step, text)] = steps_until_said([0] * 10, 10)
    assert step == FIRST_STEPS
    assert f"reward.format_pattern={PATTERN!r} matched none of the 24 responses" in text
    assert "reward.format_sees" in text


def test_a_run_of_fewer_steps_says_it_at_its_end():
    [(step, text)] = steps_until_said([0, 0], 2)
    assert step == 2
    assert "of the 16 responses of the first 2 steps" in text


def test_nothing_is_said_of_a_pattern_that_has_matched_or_is_not_there():
    assert steps_until_said([0, 1, 0, 0, 0], 5) == []
    assert steps_until_said([0, 0, 0, 0], 4, pattern=None) == []
