"""Another try at a task of reasoning-gym, where its scorer says that an answer is not right."""

from __future__ import annotations

from megatron_stare.environments.environment import Start, Step
from megatron_stare.rewards.task_scorer import score

WRONG = "That is not right. Try again."


class Tries:
    """The problem as it is, then what the task's scorer says of each answer.

    Args:
        tries: answers that may be given; 1 is a single turn.
        discount: what a right answer is worth less with each try that went before.
    """

    def __init__(self, tries: int = 3, discount: float = 0.0) -> None:
        if tries < 1 or not 0 <= discount <= 1:
            raise ValueError(f"tries={tries}, discount={discount}: expected 1 or more, and 0 to 1")
        self._tries, self._discount = tries, discount
        self._problem, self._num_given = "", 0

    def reset(self, start: Start) -> str:
        """With a row of a task: `data.sources.NAME` has `task` beside this."""
        self._problem, self._num_given = str(start), 0
        return ""

    def step(self, text: str) -> Step:
        """A last answer has its score, which may be partial; one before, that it is right."""
        found = float(score(text, self._problem))
        worth = max(1.0 - self._discount * self._num_given, 0.0)
        self._num_given += 1
        if found >= 1:
            return Step("That is right.", found * worth, True)
        if self._num_given < self._tries:
            return Step(WRONG)
        return Step("That is not right.", found * worth, True)
