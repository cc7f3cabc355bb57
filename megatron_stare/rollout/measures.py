"""What samples of held-out problems say of a policy: avg@k with its error, pass@k, maj@k."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import nan, prod, sqrt

import numpy as np

from megatron_stare.rewards.answers import stated_answer
from megatron_stare.rollout.failures import count_failures
from megatron_stare.rollout.statistics import length_statistics
from megatron_stare.types import Group


def measures(prefix: str, groups: Sequence[Group], num_samples: int) -> dict[str, float]:
    """Of `num_samples` samples of each problem, as metrics under a prefix."""
    verdicts = [[reward.correct for reward in group.judged.rewards] for group in groups]
    num_failures = count_failures(groups)
    error = standard_error(verdicts)
    every = [*chain.from_iterable(verdicts)]
    return {
        f"{prefix}/problems": float(len(groups)),
        f"{prefix}/avg_at_k": float(np.mean(every)) if every else nan,
        **({} if error is None else {f"{prefix}/avg_at_k_se": error}),
        **_pass_rates(prefix, verdicts, num_samples),
        **_majority(prefix, groups, num_samples),
        **length_statistics(prefix, groups),
        **({f"{prefix}/failures": float(num_failures)} if num_failures else {}),
    }


def standard_error(verdicts: Sequence[Sequence[float]]) -> float | None:
    """Of the mean verdict, over problems: samples of one are not independent of each other.

    Problems are the clusters (Miller, arXiv 2411.00640): with mean m of all N verdicts on n
    problems it is sqrt(n / (n - 1) * sum over problems of (sum of v - m)^2) / N. With k verdicts
    each that is the standard deviation of the problems' means over sqrt(n).

    Args:
        verdicts: of each problem; those without any are left out.

    Returns:
        None where fewer than two problems are judged.
    """
    judged = [found for found in verdicts if found]
    if len(judged) < 2:
        return None
    every = [*chain.from_iterable(judged)]
    mean = sum(every) / len(every)
    squares = sum((sum(found) - mean * len(found)) ** 2 for found in judged)
    return sqrt(len(judged) / (len(judged) - 1) * squares) / len(every)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold a correct one.

    1 - C(n-c, k) / C(n, k), the unbiased estimate of pass@k (Chen et al., arXiv 2107.03374), as a
    product of factors in [0, 1], which neither overflows nor cancels.
    """
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def majority_verdict(group: Group) -> float:
    """The verdict on its most frequent final answer; the mean of those that are as frequent.

    Answers are the same where their texts are (`stated_answer`); none at all is no vote.
    """
    verdicts: dict[str, list[float]] = {}
    for sample, reward in zip(group.samples, group.rewards, strict=True):
        if answer := stated_answer(sample.final_text):
            verdicts.setdefault(answer, []).append(reward.correct)
    most = max(map(len, verdicts.values()), default=0)
    ahead = [np.mean(found) for found in verdicts.values() if len(found) == most]
    return float(np.mean(ahead)) if ahead else 0.0


def _pass_rates(
    prefix: str, verdicts: Sequence[Sequence[float]], num_samples: int
) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... and `num_samples`; only a full verdict, 1, counts as correct.

    Each is over the problems of which k samples are judged; it is left out where there are none.
    """
    counts = [(len(found), sum(verdict == 1.0 for verdict in found)) for found in verdicts]
    budgets = [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples]
    rates = {
        k: [pass_at_k(number, correct, k) for number, correct in counts if number >= k]
        for k in [*budgets, num_samples]
    }
    return {f"{prefix}/pass_at_{k}": float(np.mean(found)) for k, found in rates.items() if found}


def _majority(prefix: str, groups: Sequence[Group], num_samples: int) -> dict[str, float]:
    """maj@k of k = `num_samples`, over the groups of which a sample is judged."""
    found = [majority_verdict(group.judged) for group in groups if group.judged.rewards]
    return {f"{prefix}/maj_at_k": float(np.mean(found))} if num_samples > 1 and found else {}
