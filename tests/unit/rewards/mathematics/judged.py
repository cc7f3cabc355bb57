"""How the tables of answers are judged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from megatron_stare.rewards.math import math_reward

Pairs = list[tuple[str, str]]


def judged(right: Pairs, wrong: Pairs) -> Callable[[Callable], Callable]:
    """A test per pair of an answer in a box and a reference: does it earn the reward?"""
    cases = [(*pair, 1.0) for pair in right] + [(*pair, 0.0) for pair in wrong]
    return pytest.mark.parametrize(("given", "reference", "reward"), cases)


def boxed_reward(given: str, reference: str) -> float:
    """The verdict on a response that ends with `given` in a box."""
    return math_reward(rf"So the answer is $\boxed{{{given}}}$.", reference)
