"""Metrics of groups that tell whether a run still learns what it should."""

from dataclasses import replace

import pytest

from megatron_stare.rollout.statistics import group_statistics, repeats
from megatron_stare.types import Group, Reward
from tests.unit.rollout.problems import make_prompt, make_sample


def group_of(texts: list[str], verdicts: list[float]) -> Group:
    prompt = make_prompt("".join(texts))
    samples = tuple(make_sample(prompt, index, text) for index, text in enumerate(texts))
    return Group(prompt, samples, tuple(Reward(v, v, None, 0.0) for v in verdicts))


def test_the_share_of_groups_with_a_signal():
    groups = [
        group_of(["a", "b"], [1.0, 0.0]),
        group_of(["a", "b"], [1.0, 1.0]),
        group_of(["a", "b"], [0.0, 0.0]),
        group_of(["a", "b"], [0.5, 1.0]),
    ]
    assert group_statistics(groups)["reward/signal_share"] == 2 / 4


def test_distinct_answers_are_those_stated_not_the_ways_to_them():
    groups = [
        group_of([r"\boxed{1}", r"so \boxed{1}", r"\boxed{2}", "#### 2"], [0.0] * 4),  # 1 and 2
        group_of(["1", "1 ", "2", "3"], [0.0] * 4),
    ]
    assert group_statistics(groups)["reward/distinct_answers"] == (2 + 3) / 2


def test_the_share_of_responses_with_a_tail():
    texts = [r"\boxed{5}", r"\boxed{5}}}}", r"\boxed{5}.", "no box, so no tail"]
    assert group_statistics([group_of(texts, [1.0] * 4)])["reward/tail_share"] == 1 / 4


@pytest.mark.parametrize("text", [r"\boxed{", r"\boxed{5", ""])
def test_a_response_cut_off_in_its_box_has_no_tail(text):
    assert group_statistics([group_of([text], [0.0])])["reward/tail_share"] == 0


def test_the_share_of_responses_that_repeat_themselves():
    texts = ["1+2=3, 3+4=7, so it is 10", "and so " * 30, "no", "9" * 9]
    group = group_of(texts, [1.0, 0.0, 0.0, 0.0])
    assert group_statistics([group])["reward/repeated_share"] == 1 / 4


def test_what_tools_said_repeats_nothing():
    said = make_sample(make_prompt("q"), 0, "ab" * 40)
    hidden = replace(said, loss_mask=(True,) * 8 + (False,) * (len(said.token_ids) - 8))
    assert (repeats(said), repeats(hidden)) == (True, False)


def test_the_share_of_tokens_in_the_longest_responses():
    texts = ["12345"] * 38 + ["1" * 107] * 2  # And each ends with a token more.
    group = group_of(texts, [1.0] * 40)
    share = group_statistics([group])["rollout/long_token_share"]
    assert share == pytest.approx(2 * 108 / (38 * 6 + 2 * 108))
    assert group_statistics([group_of(["12"] * 4, [1.0] * 4)])["rollout/long_token_share"] == 0
