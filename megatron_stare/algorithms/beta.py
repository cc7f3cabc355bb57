"""The Beta distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator

_SMALLEST = 1e-300
_ROUNDING = 1e-15


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(p <= x), p ~ Beta(a, b): the regularised incomplete beta function.

    By its continued fraction (DLMF 8.17.22), which converges soon where x is below the mean, and
    from the other end where it is above.

    >>> round(beta_cdf(0.4, 1.0, 1.0), 12), round(beta_cdf(0.5, 3.0, 3.0), 12)
    (0.4, 0.5)
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)), by Lentz's method."""
    value = c = 1.0
    d = 0.0
    for term in _terms(x, a, b):
        d = 1 / (1 + term * d or _SMALLEST)
        c = 1 + term / c or _SMALLEST
        value *= c * d
        if abs(c * d - 1) < _ROUNDING:
            break
    return value


def _terms(x: float, a: float, b: float) -> Iterator[float]:
    for m in range(100_000):
        if m:
            yield m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
