"""A few answers of each kind, as people and models write them, right and wrong."""

from __future__ import annotations

import pytest

from megatron_stare.rewards.math import math_reward
from tests.unit.rewards.mathematics.judged import boxed_reward, judged

COMMAS = [
    ("1,22", "1.22"),
    ("0,5", r"\frac12"),
    ("-0,25", r"-\frac14"),
    (r"3{,}14", "3.14"),
    ("1.234,5", "1234.5"),
    (r"1,5\%", r"1.5\%"),
    ("x = 0,5", "0.5"),
    ("x=1,234", "1234"),
    ("(1,000, 2,000)", "(1000,2000)"),
]
OTHER_COMMAS = [
    ("1,22", "122"),
    ("1,2", "3"),
    ("1, 2", "12"),
    ("(0,5)", "0.5"),
    (r"\{0,5\}", "0.5"),
    ("1,234", "1.234"),
    ("0,125", "125"),
    ("1,2,3", "1.23"),
]
PERCENT_AND_UNITS = [
    (r"33\frac13\%", r"\frac13"),
    (r"12\frac{1}{2}\%", r"12.5\%"),
    (r"-20\%", "-20"),
    (r"20\% \text{ decrease}", "20"),
    (r"\text{50\%}", "50"),
    (r"\text{12 inches}", "12"),
    (r"36\pi \text{ square inches}", r"36\pi"),
    (r"2\pi", r"2\pi \text{ radians}"),
    (r"60^{\text{o}}", "60"),
    (r"3^{\text{rd}}", "3rd"),
    ("the 4th", "4"),
    (r"\text{3:30 PM}", "15:30"),
]
OTHER_PERCENT_AND_UNITS = [
    (r"3 \text{ dozen}", "3"),
    (r"5 \text{ or more}", "5"),
    (r"\frac{1}{2}\%", r"\frac14"),
    (r"0.5\%", r"50\%"),
    ("3rd", "4th"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"\pi/2", r"90^\circ"),
]
SETS = [
    (r"\{0,\pm1\}", r"\{-1, 0, 1\}"),
    (r"(\pm 1, 2)", "(1,2),(-1,2)"),
    ("+/-5", r"\pm 5"),
    ("x > 1, x < 3", "(1,3)"),
    ("x < 1, x > 3", r"(-\infty,1)\cup(3,\infty)"),
    (r"-\infty < x < 3", "x<3"),
    (r"(-2, 2) \backslash \{0\}", r"(-2,0)\cup(0,2)"),
    (r"A\cup B", r"A \cup B"),
    (r"\begin{pmatrix}a&b\\[2pt]c&d\end{pmatrix}", r"\begin{bmatrix} a & b \\ c & d\end{bmatrix}"),
    ("2 to 3", "2:3"),
    ("2:4:6", "1:2:3"),
    (r"1011_{(2)}", "1011_2"),
    ("N = 1011_2", "1011_2"),
]
OTHER_SETS = [
    (r"\{1,3\}", "(1,3)"),
    ("(1,3)", r"\{1,3\}"),
    ("1<x<3", "1,3"),
    ("x^2<4", "(-2,2)"),
    ("1:2:3", "1:3:2"),
    ("1:2:3", r"\frac16"),
    ("0.1_3", "0.1"),
    (r"\frac{-1 \pm \sqrt{9}}{2}", "1,-2"),
]
WORDS = [
    (r"\text{True}", "true"),
    (r"\text{the ellipse}", "an ellipse"),
    (r"\text{A, C, D}", "A,C,D"),
    (r"\text{(B), (C)}", "C, B"),
    (r"\text{Alice and Bob}", "Alice, Bob"),
    ("June 20", r"\text{June 20}"),
    (r"\text{infinitely many}", "infinitely many"),
    (r"\text{infinity}", r"\infty"),
    ("`B`", "B"),
]
OTHER_WORDS = [
    (r"\text{(B) or (C)}", "B"),
    ("QR", "RQ"),
    (r"\text{eat}", r"\text{tea}"),
    ("east", "seat"),
    ("June 20", "June 21"),
]
STYLES = [
    (r"\frac ab", "a/b"),
    (r"\frac\pi2", r"\frac{\pi}{2}"),
    (r"\pi \over 2", r"\frac\pi2"),
    (r"1\frac{1}{2}x", r"\frac{3x}{2}"),
    (r"\begin{align*}x&=5\end{align*}", "5"),
    (r"\hspace{1em}5\tag{1}", "5"),
    (r"\mathtt{5} \\", "5"),
    (r"\log_2(5)", r"\log_2 5"),
    (r"\lg 5", r"\log_{10} 5"),
    (r"\log_2 8 = 3", "3"),
    (r"\cos\theta = \frac{1}{2}", r"\frac12"),
    (r"g(t) = \sin t", r"\sin t"),
    (r"f(x) = x \text{ for all } x", "f(x)=x"),
    (r"12k+5, k\in\mathbb{Z}", "12k+5"),
]
LEFT_UNDONE = [
    ("3+4i-2i", "3+2i"),
    ("2x+3x", "5x"),
    (r"x\cdot x^2", "x^3"),
    (r"\frac{x}{2}+\frac{x}{3}", r"\frac{5x}{6}"),
    (r"\sin^2 x+\cos^2 x", "1"),
    ("x - x + 5", "5"),
    ("5x^0", "5"),
    (r"5 \cdot 1", "5"),
    (r"\sqrt{4}\cdot 3", "6"),
    (r"\frac{2^{10}}{2^5}", "32"),
    ("1/2/3", r"\frac16"),
    (r"\log_9 27", "1.5"),
    (r"\cosh 0", "1"),
    (r"2\infty", r"\infty"),
    (r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}"),
    (r"\begin{pmatrix}1+1\\2\end{pmatrix}", r"\begin{pmatrix}2\\2\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
]


@judged(
    COMMAS + PERCENT_AND_UNITS + SETS + WORDS + STYLES,
    OTHER_COMMAS + OTHER_PERCENT_AND_UNITS + OTHER_SETS + OTHER_WORDS + LEFT_UNDONE,
)
def test_kinds(given: str, reference: str, reward: float):
    assert boxed_reward(given, reference) == reward


SAID = [
    (r"$x=\boxed{2}$ or $x=\boxed{3}$.", "2,3", 1.0),
    (r"the answers are $\boxed{2}$ and $\boxed{-2}$.", r"\pm2", 1.0),
    (r"either $\boxed{9}$ or $\boxed{5}$", "9", 0.0),
    (r"either $\boxed{9}$ or $\boxed{5}$", "5", 1.0),
    (r"\boxed{9}, no, \boxed{5}", "5", 1.0),
    ("The answer is not 5.", "5", 0.0),
    ("The answer is between 5 and 6.", "5", 0.0),
]


@pytest.mark.parametrize(("response", "reference", "reward"), SAID)
def test_several_boxes_and_what_is_no_statement(response: str, reference: str, reward: float):
    assert math_reward(response, reference) == reward
