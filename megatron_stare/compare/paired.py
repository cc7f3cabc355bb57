"""Paired differences over seeds, with Student's interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a method to the baseline, over the seeds that both have.

    mean        of the differences
    half_width  of the interval around it; None where there is one pair, which has no spread
    seeds       of the pairs
    """

    mean: float
    half_width: float | None
    seeds: tuple[int, ...]


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> Difference | None:
    """Mean of d_s = values[s] - baseline[s] over the n seeds of both, +- t * std(d) / sqrt(n).

    t is the quantile of Student's distribution with n - 1 degrees of freedom that holds 95%
    between -t and t, std has n - 1 in its denominator. Runs of a seed share their data's order and
    their start, so that what a seed does to both is not in the difference (Student, "The probable
    error of a mean", Biometrika 6, 1908).

    >>> paired_difference({1: 0.5, 2: 0.75, 9: 1.0}, {1: 0.25, 2: 0.25})
    Difference(mean=0.375, half_width=1.5882756, seeds=(1, 2))

    Returns:
        None where no seed has both.
    """
    seeds = tuple(sorted(values.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    count = len(seeds)
    mean = math.fsum(differences) / count
    if count == 1:
        return Difference(mean, None, seeds)
    variance = math.fsum((difference - mean) ** 2 for difference in differences) / (count - 1)
    half_width = student_quantile(count - 1) * math.sqrt(variance / count)
    return Difference(mean, half_width, seeds)


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(-t < T < t) = `confidence`, T of Student's distribution.

    The probability is a finite sum for whole degrees of freedom (Abramowitz & Stegun, 26.7.3 and
    26.7.4); it is inverted by bisection, in theta = arctan(t / sqrt(freedom)), to the last bit.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(high) * math.sqrt(freedom)


def _probability(theta: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) * tan(theta))."""
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = freedom % 2
    term = cosine if is_odd else 1.0
    terms = []
    for power in range(is_odd + 2, freedom + 1, 2):
        terms.append(term)
        term *= cosine * cosine * (power - 1) / power
    total = sine * math.fsum(terms)
    return (theta + total) * 2 / math.pi if is_odd else total
