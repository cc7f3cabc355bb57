"""Where a text states its answer, and exact match."""

from __future__ import annotations

import pytest

from megatron_stare.rewards.answers import boxed_list, exact_reward, marked_answer, tail


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {42} and \fbox{ 43 }", "43"),
        (r"\boxed{1}, or \boxed{2}, or \boxed{3}", "3"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        ("2 + 2 = 4\n#### 4\n", "4"),
        ("2 + 2 = 4 #### 4", "4"),
        ("\\boxed{5}\n#### 4", "5"),
    ],
)
def test_the_last_box_or_else_the_last_line_marks_the_answer(text: str, answer: str):
    assert marked_answer(text) == answer


@pytest.mark.parametrize(
    "text", ["", "42", "#### Final answer\nIt is 42.", r"I should use \boxed."]
)
def test_text_without_a_mark_has_no_marked_answer(text: str):
    assert marked_answer(text) is None


@pytest.mark.parametrize("text", [r"\boxed{}", r"\boxed{5} so \boxed{4", "4\n####"])
def test_an_empty_or_unfinished_mark_is_an_empty_answer(text: str):
    assert marked_answer(text) == ""


def test_a_long_text_of_opening_braces_takes_no_time():
    assert marked_answer(r"\boxed{" * 100_000) == ""


@pytest.mark.parametrize(
    ("response", "answer", "reward"),
    [
        (" 42\n", "42", 1.0),
        ("forty-two", "42", 0.0),
        ("42.0", "42", 0.0),
        ("I think so. #### yes", "yes", 1.0),
        (r"\boxed{no} \boxed{yes}", "yes", 1.0),
        (r"\boxed{yes} \boxed{no}", "yes", 0.0),
        ("", "", 0.0),
        (r"\boxed{}", "#### ", 0.0),
    ],
)
def test_exact_reward_compares_what_is_stated(response: str, answer: str, reward: float):
    assert exact_reward(response, answer) == reward


@pytest.mark.parametrize(
    ("text", "behind"),
    [
        (r"so \boxed{42}", ""),
        (r"so $x = \boxed{42}$.", ""),
        ("so \\[ \\boxed{\\frac{1}{2}} \\]\n", ""),
        (r"**\boxed{42}**", ""),
        (r"\begin{align*} x &= \boxed{42} \end{align*}", ""),
        (r"<answer>\boxed{42}</answer>", ""),
        (r"so \boxed{1088}}}}", "}}}"),
        (r"\boxed{42} then then", "then then"),
        ("\\boxed{42}.\n\nWait, is it 42?\n", "Wait, is it 42?"),
        (r"\boxed{42} no, \boxed{43}", ""),
        (r"\boxed{42", ""),
        ("no box, so nothing behind it", ""),
        ("2 + 2 = 4\n#### 4", ""),
    ],
)
def test_a_tail_is_what_stands_behind_the_last_box(text: str, behind: str):
    assert tail(text) == behind


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (r"\boxed{1}, or \boxed{2}, or \boxed{3}", "1, 2, 3"),
        (r"\boxed {42} and \fbox{ 43 }", "42, 43"),
        (r"\boxed {42}, so \fbox{ 43 }", "43"),
        (r"$x=\boxed{42}$, $x = \boxed{42}$", "42"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{2", ""),
        ("nothing", ""),
    ],
)
def test_boxes_side_by_side_are_a_list(text: str, answers: str):
    assert boxed_list(text) == answers
