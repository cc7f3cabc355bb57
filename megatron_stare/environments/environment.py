"""What an environment is: something that begins, and answers what is done in it.

    environment = Name(**params)
    observation = environment.reset(start)      the first thing that a model reads
    observation, reward, done = environment.step(text)

One that has a method `close` is told so when its episode is over.

It runs in a process that it shares with others, and is begun again there, or in another process,
and given the same texts, wherever an episode goes on without it: the same start and texts have to
have it say the same. So what it draws at random, it draws from a generator of its own, seeded by
its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

Start = int | str
"""What an episode begins from: a seed, or the answer of a problem's row."""


class Step(NamedTuple):
    """What came of a turn; a plain `(observation, reward, done)` will do.

    observation  for the model to read; what the last one says nobody reads but who looks at samples
    reward       that the turn has earned
    done         whether the episode has ended
    role         whose turn it was, where there are several players
    state        that the turn was written in, for methods that compare turns of one state; without,
                 it is what was said before the turn
    rewards      what it has earned other players, by role: for each, the last turn that it had
    """

    observation: str
    reward: float = 0.0
    done: bool = False
    role: str = ""
    state: str = ""
    rewards: Mapping[str, float] = MappingProxyType({})


class Environment(Protocol):
    """One episode's; whatever it raises is a failure, which says nothing of the model's turn."""

    def reset(self, start: Start) -> str:
        """Begin."""
        ...

    def step(self, text: str) -> Step | tuple[str, float, bool]:
        """Play what the model wrote in a turn, without special tokens; it may be anything."""
        ...
