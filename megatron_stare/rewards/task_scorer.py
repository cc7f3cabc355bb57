"""Scores of a task of reasoning-gym: what its own scorer says of an answer, perhaps in part."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from reasoning_gym import create_dataset  # pyright: ignore[reportMissingImports]

from megatron_stare.rewards.answers import stated_answer, tagged_answer


def score(response: str, answer: str) -> float:
    """The task's score of what a response states: in `<answer>` tags, marked, or all it says.

    Args:
        answer: a literal of `{"task", "settings", "entry"}`, as `data/task_process.py` writes it.
    """
    problem = ast.literal_eval(answer)
    tagged = tagged_answer(response)
    given = stated_answer(response) if tagged is None else tagged
    dataset = _dataset(problem["task"], repr(problem["settings"]))
    return dataset.score_answer(given or None, problem["entry"])


@lru_cache(maxsize=16)
def _dataset(task: str, settings: str) -> Any:
    return create_dataset(task, **ast.literal_eval(settings))
