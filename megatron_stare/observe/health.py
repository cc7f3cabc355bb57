"""Signs that a run learns something else than it should, each said once.

A reward that rises and an entropy in its band do not show what a policy writes. These do, a little:
they point at the step whose samples a person should read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

_READ = "read this step's samples (README.md: when entropy is held by junk)"


class Sign(NamedTuple):
    """Something to look at: where it shows in a step's metrics, what it may mean, what to do."""

    metric: str
    is_seen: Callable[[Mapping[str, float]], bool]
    meaning: str
    advice: str = _READ


SIGNS: tuple[Sign, ...] = (
    Sign(
        "reward/tail_share",
        lambda m: m["reward/tail_share"] > 0.2,
        "above 0.2: text stands behind final answers, where a verifier may not look",
    ),
    Sign(
        "reward/signal_share",
        lambda m: m["reward/signal_share"] < 0.1,
        "below 0.1: in nearly all groups the verdicts are equal, and teach nothing",
    ),
    Sign(
        "rollout/drawn",
        lambda m: m["rollout/drawn"] > 5 * m["rollout/completed"],
        "more than 5 for each that was kept: most of the generation is thrown away",
    ),
    Sign(
        "reward/distinct_answers",
        lambda m: m["reward/distinct_answers"] < 1.5 and _is_mostly_wrong(m),
        "below 1.5 where most answers are wrong: the policy no longer tries other answers",
    ),
    Sign(
        "optim/lr",
        lambda m: m["optim/lr"] > 0.01,
        "above 0.01: Adam moves every weight by about as much in each update, and most weights of "
        "a language model are smaller, so that what is saved may answer nothing",
        "lower optim.lr, unless this is meant (1e-7 to 1e-3 are usual)",
    ),
)
"""Of the metrics of a step, from which they are read."""


def _is_mostly_wrong(metrics: Mapping[str, float]) -> bool:
    """Groups of one sample, which always have a signal, are left out: they cannot differ."""
    return metrics["reward/accuracy"] < 0.5 and metrics["reward/signal_share"] < 0.5


class Health:
    """Says each sign when it is first seen.

    >>> metrics = {"reward/tail_share": 0.9, "reward/signal_share": 0.4, "reward/accuracy": 0.9}
    >>> metrics |= {"rollout/drawn": 64, "rollout/completed": 64, "reward/distinct_answers": 1.2}
    >>> health = Health()
    >>> [message.partition(" above")[0] for message in health.news(7, metrics)]
    ['step 7: reward/tail_share is 0.9,']
    >>> list(health.news(8, metrics))
    []
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def news(self, step: int, metrics: Mapping[str, float]) -> Iterator[str]:
        """A line for each sign that no step before has shown.

        Args:
            metrics: of the step. What a checkpoint of an older version holds lacks some, and
                shows no sign by them.
        """
        for sign in SIGNS:
            unseen = sign.metric not in self._seen and sign.metric in metrics
            if unseen and sign.is_seen(metrics):
                self._seen.add(sign.metric)
                yield (
                    f"step {step}: {sign.metric} is {metrics[sign.metric]:.3g}, {sign.meaning}; "
                    f"{sign.advice}"
                )
