"""Whether predictive bands are as wide as they say, and how much a few correlated points tell about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVELS = (50, 80, 95)
"""Percent of the points that the central predictive bands are to hold."""


def inside(depth: np.ndarray, particles: int, level: float) -> np.ndarray:
    """Whether each point is in the central band of this level (0..1) of P imagined values; NaN where `depth` is.

    The band reaches from the a-th smallest to the a-th largest value, a = (P+1)(1-level)/2, which holds a further draw
    from the same distribution with probability `level` whatever P is.  Where a is no whole number, the bands on either
    side of it are mixed, so that a point may be partly inside.
    """
    a = (particles + 1) * (1.0 - level) / 2.0
    low = math.floor(a)
    part = a - low
    held = (1.0 - part) * (depth >= low) + part * (depth >= low + 1)
    return np.where(np.isnan(depth), np.nan, held)


class Average(NamedTuple):
    """A mean of correlated numbers."""

    mean: float
    count: int
    """How many finite numbers there were."""
    effective: float
    """How many independent ones would tell as much."""
    error: float
    """Standard error of the mean; NaN for fewer than two effective numbers."""


def average(series: Sequence[np.ndarray], overlap: float = 1.0) -> Average:
    """Mean and standard error of numbers in order of time, one array per episode, NaN being left out.

    Neighbours are not independent: with r_k the autocorrelation at lag k, pooled over episodes and summed up to the
    first one that is not positive, N numbers count for N / max(1 + 2 sum_k r_k, overlap).  `overlap` is how many of
    them share a part of the same trajectory.
    """
    values = np.concatenate([np.asarray(v, float) for v in series]) if series else np.zeros(0)
    good = np.isfinite(values)
    count = int(good.sum())
    if count == 0:
        return Average(math.nan, 0, 0.0, math.nan)
    mean = float(values[good].mean())
    centred = [np.where(np.isfinite(v), v - mean, 0.0) for v in series]
    total = float(sum(np.sum(v**2) for v in centred))
    correlated, lag = 1.0, 1
    while total > 0.0 and lag < max(map(len, centred)):
        r = float(sum(np.sum(v[:-lag] * v[lag:]) for v in centred if len(v) > lag)) / total
        if r <= 0.0:
            break
        correlated, lag = correlated + 2.0 * r, lag + 1
    effective = min(count / max(correlated, overlap, 1.0), count)
    error = math.sqrt(total / count / (effective - 1.0)) if effective >= 2.0 else math.nan
    return Average(mean, count, effective, error)


def share_interval(share: float, effective: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share seen in so many independent points, z standard deviations to either side."""
    if not effective > 0.0 or math.isnan(share):
        return 0.0, 1.0
    centre = (share + z**2 / (2.0 * effective)) / (1.0 + z**2 / effective)
    inner = max(share * (1.0 - share), 0.0) / effective + z**2 / (4.0 * effective**2)
    half = z / (1.0 + z**2 / effective) * math.sqrt(inner)
    return centre - half, centre + half
