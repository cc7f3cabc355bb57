"""Choices, times, intervals, chains of equals, and responses that mark no answer or think aloud."""

from __future__ import annotations

import pytest

from megatron_stare.rewards.math import math_reward
from tests.unit.rewards.mathematics.judged import boxed_reward, judged

CHOICES = [
    (r"\text{(C) } 12", "C"),
    (r"\text{(C)}\ 12", "C"),
    (r"\textbf{(C)}\ 12", "12"),
    (r"\textbf{(C) } 12", "C"),
    (r"\textbf{(C) 12}", "12"),
    (r"\text{(C) 12}", "C"),
    (r"\mathrm{(C)}\ 12", "C"),
    ("(C) 12", "(C)"),
    ("(C) 12", "12"),
    ("C) 12", "C"),
    ("C. 12", "C"),
    ("C: 12", "12"),
    ("B.", "B"),
    ("(B)", "B"),
    ("B", "(B)"),
    ("B)", "B"),
    (r"\text{B}", "B"),
    (r"\textbf{B}", r"\text{(B)}"),
    (r"\textbf{(B)}", "B"),
    ("Option B", "B"),
    ("option (B)", "B"),
    ("C", r"\textbf{(C)}\ 12"),
    ("12", r"\textbf{(C)}\ 12"),
    (r"\textbf{(C)}\ \frac{1}{2}", "0.5"),
    (r"(C) \frac{1}{2}", r"\frac12"),
    ("E", r"\text{(E)}"),
    (r"\boxed{C}", "C"),
]

OTHER_CHOICES = [
    (r"\text{(B) } 12", "C"),
    (r"\textbf{(C)}\ 13", "12"),
    (r"\textbf{(C)}\ 12", "D"),
    ("(C) 12", "(C) 13"),
    ("(B) 12", "(C) 12"),
    ("B.", "C"),
    ("B", "C"),
    ("A, B", "B"),
    ("A or B", "B"),
    ("12", "C"),
    ("C", "12"),
    ("Option B", "A"),
    (r"\text{(B)}", r"\text{(E)}"),
    ("(A)(B)", "A"),
]

TIMES = [
    ("20:34", "20:34:00"),
    ("20:34", r"08:34 \text{P.M.}"),
    (r"8:34 \text{ P.M.}", "20:34"),
    ("8:34 PM", r"8:34 \text{ p.m.}"),
    ("8:34pm", "8:34 PM"),
    ("8:34", "8:34 a.m."),
    ("3 PM", "3:00 PM"),
    ("12:05 AM", "0:05:00"),
    ("12:30 PM", "12:30"),
]

OTHER_TIMES = [
    ("20:34", r"08:34 \text{A.M.}"),
    ("8:34 PM", "8:34 AM"),
    ("8:34 PM", "8:35 PM"),
    ("20:34", "20:34:01"),
    ("12:05 AM", "12:05 PM"),
    ("3 PM", "4 PM"),
]

INTERVALS = [
    ("x<3", r"(-\infty, 3)"),
    (r"(-\infty, 3)", "x<3"),
    (r"x \le 3", r"(-\infty, 3]"),
    (r"(-\infty, 3]", r"x \leq 3"),
    ("3 > x", r"(-\infty, 3)"),
    (r"1 < x < 2", "(1,2)"),
    ("(1,2)", "1 < x < 2"),
    (r"1 \le x < 2", "[1,2)"),
    ("[1,2)", r"1 \leq x < 2"),
    (r"2 > x \ge 1", "[1,2)"),
    (r"x \in [1,2)", "[1,2)"),
    ("[1,2)", r"x \in [1,2)"),
    (r"x \in [0.5, \infty)", r"[1/2, \infty)"),
    (r"[1, +\infty)", r"[1,\infty)"),
    (r"x \geq 1", r"[1, +\infty)"),
    (r"x<1 \text{ or } x>3", r"(-\infty,1)\cup(3,\infty)"),
    (r"(-\infty,1)\cup(3,\infty)", r"x<1 \text{ or } x>3"),
    (r"x \le -2 \text{ or } x \ge 2", r"(-\infty,-2] \cup [2,\infty)"),
    (r"(3,\infty)\cup(-\infty,1)", r"(-\infty,1)\cup(3,\infty)"),
    ("x<1 or x>3", "x>3 or x<1"),
    (r"x \ne 2", r"(-\infty,2)\cup(2,\infty)"),
    (r"(-\infty,\infty)", r"\mathbb{R}"),
    (r"\text{all real numbers}", r"(-\infty, \infty)"),
    (r"x > 3", "3 < x"),
    (r"x \geqslant 3", r"x \ge 3"),
    ("x >= 3", r"[3,\infty)"),
    (r"\left(-\infty, \frac{1}{2}\right)", "x < 0.5"),
    (r"(1,2)\cup(2,3)", r"(2,3) \cup (1,2)"),
    (r"x<-1 \cup x>2", r"(-\infty,-1)\cup(2,\infty)"),
    (r"-\infty < x < \infty", r"\mathbb{R}"),
    ("x-y < 4", "x < y+4"),
]

OTHER_INTERVALS = [
    ("x<3", r"(-\infty, 3]"),
    (r"(-\infty, 3)", r"x \le 3"),
    ("x>3", r"(-\infty, 3)"),
    (r"(3, \infty)", "x<3"),
    ("x<4", r"(-\infty, 3)"),
    ("x<3", "3"),
    ("3", "x<3"),
    (r"1 < x < 2", "[1,2]"),
    (r"1 \le x \le 2", "(1,2)"),
    ("[-3,2]", "(-3,2)"),
    ("[1,2)", "[1,3)"),
    (r"x<1 \text{ or } x>3", r"(-\infty,1]\cup(3,\infty)"),
    (r"x<1 \text{ or } x>3", "(1,3)"),
    (r"(-\infty,1)\cup(3,\infty)", r"(-\infty,1)\cup(4,\infty)"),
    (r"(-\infty,1)", r"(-\infty,1)\cup(3,\infty)"),
    (r"x \ne 2", r"(-\infty,3)\cup(3,\infty)"),
    (r"\mathbb{R}", r"(0,\infty)"),
    ("x > 3", "y > 4"),
    ("x-1 < 4", "x < 5"),
    ("2x > 6", "x > 3"),
]

CHAINS = [
    ("x=2+3=5", "5"),
    ("2+3=5", "5"),
    ("12+34 = 46", "46"),
    (r"x = \frac{10}{2} = 5", "5"),
    (r"\frac{1}{2} = 0.5", "0.5"),
    (r"\frac{1}{3} \approx 0.333", r"\frac13"),
    (r"S = 3 \cdot 4 = 12", "12"),
    (r"x = y = 5", "5"),
    (r"\sqrt{16} = 4", "4"),
    (r"f(2) = 4 + 1 = 5", "5"),
    ("x+y = 5", "5"),
    (r"2^{10} = 1024", "1024"),
    ("x := 4", "4"),
    ("x == 4", "4"),
    ("x=2, x=3", "2,3"),
    (r"\binom52 = 10", "10"),
    (r"\det A = -2", "-2"),
    (r"P(X>2) = \frac14", "0.25"),
    (r"\vec v = (1,2)", "(1,2)"),
    (r"\#S = 12", "12"),
]

FALSE_CHAINS = [
    ("4=5", "5"),
    ("1=2=3=7", "7"),
    ("x=4=5", "5"),
    ("2+2=5", "5"),
    ("x = 2+3 = 6", "6"),
    (r"\frac{1}{2} = \frac{1}{3}", r"\frac13"),
    (r"x = \frac{10}{2} = 6", "6"),
    ("5 = 4", "5"),
    ("x=2+3=5", "6"),
    (r"\pi = 3", "3"),
    ("0 = 5", "5"),
    ("5 = 5 = 4 = 5", "5"),
    ("6=7=6", "6"),
    ("4 = x = 5", "5"),
    (r"\gcd(12,18) = 7", "7"),
    ("7 = = 7", "7"),
    (r"x \not= 7", "7"),
    (r"7 \star = 8", "8"),
]

UNPARSED = [
    (r"\sum_{k=0}^{n}\bigl(k\bigr)", "0"),
    (r"\sum_{k=0}^{n}\bigl(k\bigr)", "n"),
    (r"\bigoplus_{k} 7", "7"),
    (r"\foo{5}", "5"),
    (r"5 \star 7", "7"),
    (r"\text{7 or 8}", "7"),
    ("3 4", "7"),
    (r"12\,34", "46"),
    ("3 4", "12"),
    (r"5 \clubsuit 7", "5"),
    (r"\frac{5", "5"),
    (r"x^{^3} + 7", "7"),
    (r"\begin{tikzpicture} 7 \end{tikzpicture}", "7"),
    ("AZYUK2A", "2"),
    ("7 apples and 3 pears", "3"),
    ("7 apples and 3 pears", "7"),
    (r"\text{the answer is } 7 \text{ or } 8", "7"),
    ("= = 7", "7"),
    (r"\sqrt[", "0"),
    (r"7 \text{ if } x > 0", "7"),
    ("}{7", "7"),
]


@judged(CHOICES, OTHER_CHOICES)
def test_a_choice_is_its_letter_and_its_value(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


@judged(TIMES, OTHER_TIMES)
def test_times_of_day(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


@judged(INTERVALS, OTHER_INTERVALS)
def test_inequalities_and_intervals_in_both_directions(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


@judged(CHAINS, FALSE_CHAINS)
def test_a_false_chain_of_equals_earns_nothing(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


@judged([], UNPARSED)
def test_no_number_is_taken_from_inside_what_cannot_be_read(
    given: str, reference: str, reward: float
):
    assert boxed_reward(given, reference) == reward


SAID = [
    ("<think>perhaps \\boxed{9}. no.</think>\nThe answer is 5.", "5"),
    ("<think>perhaps \\boxed{9}. no.</think>\n5", "5"),
    ("<think>perhaps \\boxed{9}. no.</think>\n\n$5$", "5"),
    ("<think>9?</think>So it is \\boxed{5}.", "5"),
    ("<think>so \\boxed{5}", "5"),
    ("<think>so \\boxed{5}</think>", "5"),
    ("<think>so \\boxed{5}</think>\n \n", "5"),
    ("perhaps \\boxed{9}.</think>\nThe answer is \\boxed{5}", "5"),
    ("perhaps \\boxed{9}.</think>\nThe answer is 5", "5"),
    ("<think>\\boxed{9}</think> \\boxed{8} <think>hm</think> The answer is 5.", "5"),
    ("\\boxed{5} <think>or \\boxed{9}", "5"),
    ("<think>9 #### 9</think>\n#### 5", "5"),
    ("<think>a</think><answer>5</answer>", "5"),
    ("<think>a</think><answer>\\boxed{5}</answer>", "5"),
    ("The answer is 5.", "5"),
    ("The answer is **5**.", "5"),
    ("**Final Answer:** 5", "5"),
    ("The final answer is $\\frac{1}{2}$. I hope it is correct.", "0.5"),
    ("Therefore, $x = 5$.", "5"),
    (r"The point is \left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})"),
    (r"The point is \left( 3, \frac{\pi}{2} \right).", r"(3, \frac{\pi}{2})"),
    (r"The answer is (3, \frac{\pi}{2}).", r"(3, \frac{\pi}{2})"),
    (r"The answer is \frac{1}{2}.", "0.5"),
    (r"\frac{1}{2}", "0.5"),
    ("The answer is 1 1/2.", "1.5"),
    ("The answer is 10 weeks.", "10"),
    ("The answer is 12 345.", "12345"),
    ("The answer is (C) 12.", "C"),
    ("The correct option is C.", "C"),
    ("The answer is √3/2.", r"\frac{\sqrt3}{2}"),
    ("The answer is 1,234.", "1234"),
    ("The answer is $1,234.50.", "1234.5"),
    ("The answer is x < 3.", r"(-\infty,3)"),
]

NOT_SAID = [
    ("<think>perhaps \\boxed{5}. no, nine.</think>\nThe answer is 9.", "5"),
    ("<think>perhaps \\boxed{5}.</think>\n9", "5"),
    ("<think>perhaps \\boxed{5}.</think>\nI do not know.", "5"),
    ("<think>so 5</think>", "5"),
    ("<think>The answer is 5", "5"),
    ("<think>\\boxed{5}</think> \\boxed{9}", "5"),
    ("\\boxed{5}</think>\nThe answer is \\boxed{9}", "5"),
    ("<think>\\boxed{5}</think> \\boxed{5} <think>hm</think> The answer is 9.", "5"),
    ("\\boxed{9} <think>or \\boxed{5}", "5"),
    ("<think>#### 5</think>\n#### 9", "5"),
    ("<think>\\boxed{5}</think>\\boxed{", "5"),
    (r"Final answer is $\sum_{k=0}^n\bigl(k\bigr)$. I hope so.", "0"),
    (r"The answer is $\sum_{k=1}^{100} k$.", "5050"),
    (r"The answer is $12+34$.", "46"),
    ("The answer is 12 + 34.", "46"),
    ("The answer is 4 = 5.", "5"),
    ("The answer is 5, 6 or 7", "7"),
    (r"The point is \left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{3})"),
    (r"The point is \left( 3, \frac{\pi}{2} \right)", r"\frac{\pi}{2}"),
    (r"The point is \left( 3, \frac{\pi}{2} \right)", "2"),
    ("The answer is 10 weeks.", "11"),
    ("The answer is (C) 12.", "D"),
    ("The answer is 1 1/2.", "2"),
]


@pytest.mark.parametrize(("response", "reference"), SAID)
def test_what_is_said_is_judged(response: str, reference: str):
    assert math_reward(response, reference) == 1.0


@pytest.mark.parametrize(("response", "reference"), NOT_SAID)
def test_what_is_only_thought_or_not_the_answer_is_not(response: str, reference: str):
    assert math_reward(response, reference) == 0.0
