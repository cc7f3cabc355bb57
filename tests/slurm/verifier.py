"""A verifier that takes its time: signals meet it at work, and no run is over before they come."""

from __future__ import annotations

import time

from megatron_stare.rewards.answers import exact_reward


def slow_exact_reward(response: str, answer: str) -> float:
    """`exact`, in no less than 0.05 seconds."""
    time.sleep(0.05)
    return exact_reward(response, answer)
