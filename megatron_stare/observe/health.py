"""Signs that a run learns something else than it should, each said once.

A reward that rises and an entropy in its band do not show what a policy writes. These do, a little:
they point at the step whose samples a person should read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from megatron_stare.observe.history import History

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
        "reward/repeated_share",
        lambda m: m["reward/repeated_share"] > 0.1,
        "above 0.1: responses go round in circles, which holds entropy and fills the limit",
    ),
    Sign(
        "reward/zero_advantage_share",
        lambda m: m["reward/zero_advantage_share"] > 0.5,
        "above 0.5: most groups of the batch are trained on, and teach nothing",
        "turn rollout.dynamic_sampling on, or take problems nearer to what the policy can do",
    ),
    Sign(
        "rollout/long_token_share",
        lambda m: m["rollout/long_token_share"] > 0.3,
        "above 0.3: few long responses have most of the weight in a mean over tokens",
        "read them, and see algorithm.aggregation and reward.overlong_buffer_tokens",
    ),
    Sign(
        "rollout/truncated_share",
        lambda m: m["rollout/truncated_share"] > 0.3,
        "above 0.3: responses are cut before their answer, and count as wrong",
        "raise rollout.max_response_tokens, or set reward.overlong_buffer_tokens",
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


_NEEDED = {"reward/signal_share", "reward/accuracy", "rollout/completed"}
"""What signs read beside their own metric: steps of an evaluation have none of it."""


def _is_mostly_wrong(metrics: Mapping[str, float]) -> bool:
    """Groups of one sample, which always have a signal, are left out: they cannot differ."""
    return metrics["reward/accuracy"] < 0.5 and metrics["reward/signal_share"] < 0.5


def signs_of(history: History) -> list[str]:
    """What a run has said, or would have said, of its steps."""
    by_step: dict[int, dict[str, float]] = {}
    for name, series in history.items():
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            by_step.setdefault(step, {})[name] = value
    health = Health()
    return [
        line
        for step in sorted(by_step)
        if by_step[step].keys() >= _NEEDED
        for line in health.news(step, by_step[step])
    ]


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
