"""What a few returns say about their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence


def student_cdf(t: float, freedom: int) -> float:
    """P(|T| <= t) for Student's t with `freedom` degrees of freedom, t >= 0.

    The finite series of Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even), with theta = arctan(t / sqrt(freedom)).
    """
    theta = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(theta), math.cos(theta) ** 2
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2.0 / math.pi * (theta + sine * total) if odd else sine * total


def student_quantile(coverage: float, freedom: int) -> float:
    """The t with P(|T| <= t) = coverage, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < coverage:
        high *= 2.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if student_cdf(middle, freedom) < coverage else (low, middle)
    return 0.5 * (low + high)


def mean_interval(values: Sequence[float], coverage: float = 0.95) -> tuple[float, tuple[float, float] | None]:
    """Mean and confidence interval mean -+ t s / sqrt(n), s with n - 1; no interval for fewer than two values."""
    count = len(values)
    if count == 0:
        raise ValueError("The mean of no values was asked for; at least one is needed.")
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    half = student_quantile(coverage, count - 1) * deviation / math.sqrt(count)
    return mean, (mean - half, mean + half)
