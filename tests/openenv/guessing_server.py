"""A server of OpenEnv with a number to guess: `python guessing_server.py PORT SESSIONS`.

Runs with the Python of .venv-openenv.
"""

from __future__ import annotations

import random
import sys

import uvicorn  # pyright: ignore[reportMissingImports]
from openenv.core.env_server import (  # pyright: ignore[reportMissingImports]
    Action,
    Environment,
    Observation,
    State,
    create_fastapi_app,
)


class Guess(Action):
    """What is asked to be the number."""

    message: str


class Told(Observation):
    """What the player reads."""

    text: str
    num_guesses: int


class Guessing(Environment):
    """A number from 0 to 9; 1 for it, and a tenth less for each guess before."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._number, self._num_guesses = 0, 0

    def reset(self, seed: int | None = None, lowest: int = 0) -> Told:
        """Of a seed."""
        self._number, self._num_guesses = random.Random(seed).randint(lowest, 9), 0
        return Told(text=f"Guess my number, from {lowest} to 9.", num_guesses=0)

    def step(self, action: Guess) -> Told:
        """Three guesses."""
        self._num_guesses += 1
        if action.message == "break":
            raise RuntimeError("the dice are lost")
        is_right = action.message.strip() == str(self._number)
        done = is_right or self._num_guesses == 3
        reward = 1.0 - 0.1 * (self._num_guesses - 1) if is_right else 0.0
        text = "Right." if is_right else f"Not {action.message[:20]!r}."
        return Told(text=text, num_guesses=self._num_guesses, reward=reward, done=done)

    @property
    def state(self) -> State:
        """How far it is."""
        return State(step_count=self._num_guesses)


if __name__ == "__main__":
    port, sessions = map(int, sys.argv[1:])
    app = create_fastapi_app(Guessing, Guess, Told, max_concurrent_envs=sessions)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
