"""Mathematical equivalence of final answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from megatron_stare.rewards.math import math_reward

EQUAL = [
    (r"\boxed{42}", "42"),
    (r"\boxed{42}", "42.0"),
    (r"\boxed{10000}", "10{,}000"),
    (r"\boxed{\$70{,}000.00}", "70000"),
    (r"\boxed{0.5}", r"\frac12"),
    (r"\boxed{0.333333}", r"\frac{1}{3}"),
    (r"\boxed{12\frac{3}{5}}", "12.6"),
    (r"\boxed{2\sqrt{3}}", r"\sqrt{12}"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1"),
    (r"\boxed{x = 5}", "5"),
    (r"\boxed{45^\circ}", "45"),
    (r"\boxed{18 \text{ dollars}}", "18"),
    (r"\boxed{50\%}", "50"),
    (r"\boxed{2, 1}", "1,2"),
    (r"\boxed{(3,\frac{\pi}{2})}", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"\boxed{[1,2)}", "[1,2)"),
    (r"\boxed{\text{Monday}}", "Monday"),
    (r"\boxed{E}", r"\text{(E)}"),
    (r"\boxed{2^{10}}", "1024"),
    (r"\boxed{3 \times 10^5}", "300000"),
    (r"\boxed{12+34 = 46}", "46"),
    ("42", "42"),
    ("The answer is 42.", "42"),
    ("So x = -5", "-5"),
    (r"we get $\frac12$.", "1/2"),
    ("12 apples, in 3 boxes", "3"),
    ("#### Conclusion\nThe answer is 5", "5"),
    (r"\boxed{5}", "5 - 1 = 4, then 1 more\n#### 5"),
]

DIFFERENT = [
    (r"\boxed{41}", "42"),
    (r"\boxed{-42}", "42"),
    (r"\boxed{0.33}", r"\frac{1}{3}"),
    (r"\boxed{(2,1)}", "(1,2)"),
    (r"\boxed{(1,2]}", "[1,2)"),
    (r"\boxed{y^2}", "x^2"),
    (r"\boxed{\frac{0}{0}}", "5"),
    ("no idea", "5"),
]

TRICKS = [
    ("", "5"),
    (" \n", "5"),
    (r"\boxed{}", "5"),
    (r"5 \boxed{", "5"),
    (r"\boxed{5} \boxed{6}", "5"),
    (r"\boxed{5 \text{ or } 6}", "6"),
    (r"\boxed{5, 6}", "6"),
    ("The answer is $5$, $6$ or $7$", "6"),
    ("The answer is 5, 6 or 7", "7"),
    (r"\boxed{12+34}", "46"),
    ("12 + 34", "46"),
    (r"\boxed{6 \cdot 7}", "42"),
    (r"\boxed{12(34)}", "46"),
    (r"\boxed{\text{the reference answer}}", "5"),
]


@pytest.mark.parametrize(("response", "answer"), EQUAL)
def test_equivalent_answers_are_rewarded(response: str, answer: str):
    assert math_reward(response, answer) == 1.0


@pytest.mark.parametrize(("response", "answer"), DIFFERENT)
def test_other_answers_are_not(response: str, answer: str):
    assert math_reward(response, answer) == 0.0


@pytest.mark.parametrize(("response", "answer"), TRICKS)
def test_hedging_silence_and_repeating_the_question_earn_nothing(response: str, answer: str):
    assert math_reward(response, answer) == 0.0


def test_an_empty_reference_is_met_by_nothing():
    assert math_reward("", "") == math_reward(r"\boxed{}", "") == math_reward("5", " ") == 0.0


def test_it_works_in_threads():
    with ThreadPoolExecutor(2) as threads:
        rewards = list(threads.map(math_reward, [r"\boxed{\frac24}"] * 4, [r"\frac12"] * 4))
    assert rewards == [1.0] * 4


def test_a_long_response_without_a_mark_is_searched_quickly():
    response = "We add $x_1$ and 17, then (3 + 4) again. " * 2500 + r"So we get $\frac{3}{4}$."
    assert math_reward(response, "0.75") == 1.0
