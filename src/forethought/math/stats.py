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
    """Mean and confidence interval mean -+ t s / sqrt(n), s with n - 1; no interval for fewer than two values.

    Of values that are not all finite neither is the interval; of very large ones its ends may be infinite.
    """
    count = len(values)
    if count == 0:
        raise ValueError("The mean of no values was asked for; at least one is needed.")
    if not all(map(math.isfinite, values)):
        return sum(values) / count, None if count == 1 else (math.nan, math.nan)
    # In units of a power of two near the largest: nothing is rounded by it, and no square overflows.
    unit = math.ldexp(1.0, max(math.frexp(max(map(abs, values)))[1] - 1, -1000))
    scaled = [v / unit for v in values]
    mean = math.fsum(scaled) / count
    if count == 1:
        return mean * unit, None
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in scaled) / (count - 1))
    half = student_quantile(coverage, count - 1) * deviation / math.sqrt(count)
    return mean * unit, ((mean - half) * unit, (mean + half) * unit)
