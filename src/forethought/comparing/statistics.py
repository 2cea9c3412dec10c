"""What a few seeds say about a configuration: NumPy only, one fixed stream of random numbers, so that the same runs
always give the same figures.

The interquartile mean and the probability of improvement are those of Agarwal et al., "Deep Reinforcement Learning at
the Edge of the Statistical Precipice" (2021), but for the weights of `iqm` and the levels of the intervals.

Intervals are percentile intervals of a stratified bootstrap: seeds are drawn again with replacement inside each
stratum (a task), the statistic is computed anew, and two quantiles of 10,000 such values are the ends.  With few seeds
the plain quantiles, 2.5% and 97.5%, are too narrow.  So they are moved outward as the Student t quantile and the
missing factor n / (n - 1) say, to Phi(-sqrt(n / (n - 1)) t) and its mirror image (the expanded percentile interval of
Hesterberg, "What Teachers Should Know About the Bootstrap", 2015); n is the size of the smallest stratum.

Measured coverage of the IQM's interval, 4,000 simulated comparisons each, nominally 95%; from the smallest to the
largest over six populations (normal, Student t with 3 degrees of freedom, uniform, log-normal and its mirror image,
and one in which 20% of the runs fail):

| seeds | this interval | plain percentile | BCa |
|---|---|---|---|
| 3 | 74 to 76% | 74 to 76% | 72 to 75% |
| 4 | 86 to 88% | 86 to 88% | 86 to 88% |
| 5 | 94% | 90 to 92% | 89 to 91% |
| 7 | 96 to 97% | 90 to 93% | 90 to 93% |
| 10 | 97 to 98% | 93 to 94% | 93 to 94% |
| 20 | 96% | 94 to 95% | 94 to 95% |

No bootstrap leaves the range of the values, so 3 and 4 seeds cannot do better.  The interval of a probability of
improvement covered 96 to 100% where the true one was 0.5, 0.76, 0.92 or 0.98, with 3 to 20 seeds on each side (1,000
comparisons each), but for 93 to 94% at 0.92 and 0.98 over all pairs of 20 seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from forethought.math.stats import student_quantile

DRAWS = 10_000
"""Bootstrap samples."""
LEVEL = 0.95
"""Nominal coverage of every interval."""
FEWEST = 3
"""Seeds below which there is no interval: two values bound almost nothing."""
Values = Sequence[float] | np.ndarray
"""Returns of runs."""


class Interval(NamedTuple):
    """Where the true value lies, as far as these seeds tell."""

    low: float
    high: float
    kind: str
    """"bootstrap", or "bound" where no resample differs from the data and an exact bound stands in."""


class Probability(NamedTuple):
    """How probable it is that a run of one configuration beats one of another, and how sure that is."""

    value: float
    interval: Interval | None


class StepsToThreshold(NamedTuple):
    """When runs first reached a threshold; those that never did are right-censored, and counted as such."""

    solved: int
    of: int
    median: int | None
    """Of Kaplan and Meier: the first steps by which half are solved; None if that was never reached."""


def iqm_weights(count: int) -> np.ndarray:
    """Weights of the sorted values in their interquartile mean.

    The i-th of n sorted values stands for the quantiles from (i - 1)/n to i/n, and counts as much as of these lies
    between 1/4 and 3/4.  Where 4 divides n this is the mean of the middle half (scipy.stats.trim_mean(x, 0.25)); else
    the values at its edges count in part, where trim_mean would take them whole.
    """
    edges = np.arange(count + 1) / count
    inside = np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25)
    return 2.0 * np.clip(inside, 0.0, None)


def iqm(values: Values) -> float:
    """The interquartile mean, with the weights of `iqm_weights`."""
    return float(np.sort(np.asarray(values, float)) @ iqm_weights(len(values)))


def stratified_iqm_interval(strata: Sequence[Values], draws: int = DRAWS) -> Interval | None:
    """Interval of the IQM of all values together, drawn again inside each stratum; None for fewer than three seeds."""
    parts = [np.asarray(part, float) for part in strata]
    fewest = min(map(len, parts))
    if fewest < FEWEST:
        return None
    random = np.random.default_rng(0)
    drawn = np.concatenate([part[random.integers(len(part), size=(draws, len(part)))] for part in parts], axis=1)
    drawn.sort(axis=1)
    return _interval(drawn @ iqm_weights(drawn.shape[1]), fewest)


def iqm_interval(values: Values, draws: int = DRAWS) -> Interval | None:
    """Interval of the IQM of one task's runs."""
    return stratified_iqm_interval([values], draws)


def probability_of_improvement(pairs: Sequence[tuple[Values, Values]]) -> Probability:
    """P(X > Y) + P(X = Y) / 2 over all pairs of a run of each, averaged over strata (x, y).

    Seeds of X and of Y are drawn again independently.
    """
    wins = [_wins(np.asarray(x, float)[:, None], np.asarray(y, float)[None, :]) for x, y in pairs]
    value = float(np.mean([w.mean() for w in wins]))
    fewest = min(min(w.shape) for w in wins)
    if fewest < FEWEST:
        return Probability(value, None)
    random = np.random.default_rng(0)
    drawn = np.mean([_drawn_all_pairs(w, random) for w in wins], axis=0)
    return Probability(value, _interval_of_share(drawn, fewest))


def paired_probability(pairs: Sequence[tuple[Values, Values]]) -> Probability:
    """The same over pairs of one seed: how often X beats Y with the seed that both had, averaged over strata (x, y).

    Seeds are drawn again, and with each seed both of its runs.
    """
    wins = [_wins(np.asarray(x, float), np.asarray(y, float)) for x, y in pairs]
    value = float(np.mean([w.mean() for w in wins]))
    fewest = min(map(len, wins))
    if fewest < FEWEST:
        return Probability(value, None)
    random = np.random.default_rng(0)
    drawn = np.mean([w[random.integers(len(w), size=(DRAWS, len(w)))].mean(axis=1) for w in wins], axis=0)
    return Probability(value, _interval_of_share(drawn, fewest))


def steps_to_threshold(reached: Sequence[int | None], seen: Sequence[int]) -> StepsToThreshold:
    """When each run reached the threshold (None: never), and until when it was looked at.

    Kaplan and Meier: at each step s at which d runs reach it, of r that had not and were still looked at, the share
    that has not is multiplied by 1 - d / r.  The median is the first s at which it is at most one half.
    """
    times = sorted({t for t in reached if t is not None})
    left, median = 1.0, None
    for time in times:
        at_risk = sum(end >= time if t is None else t >= time for t, end in zip(reached, seen, strict=True))
        left *= 1.0 - sum(t == time for t in reached) / at_risk
        if median is None and left <= 0.5 + 1e-12:
            median = time
    return StepsToThreshold(sum(t is not None for t in reached), len(reached), median)


def bound(count: int) -> float:
    """The least probability of an end at which `count` such ends in a row are no surprise (2.5%, on one side)."""
    return (0.5 * (1.0 - LEVEL)) ** (1.0 / count)


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x > y) + 0.5 * (x == y)


def _drawn_all_pairs(wins: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mean over all pairs of each of many resamples: how often each run was drawn says how much it counts.

    Counts are whole numbers, so that their sums are exact, and resamples in which all pairs end alike are alike.
    """
    n, m = wins.shape
    first = random.multinomial(n, np.full(n, 1.0 / n), size=DRAWS)
    second = random.multinomial(m, np.full(m, 1.0 / m), size=DRAWS)
    return np.einsum("bi,ij,bj->b", first, wins, second, optimize=True) / (n * m)


def _interval(drawn: np.ndarray, fewest: int) -> Interval:
    """The expanded percentile interval of these bootstrap values."""
    outward = math.sqrt(fewest / (fewest - 1)) * student_quantile(LEVEL, fewest - 1)
    tail = 0.5 * math.erfc(outward / math.sqrt(2.0))
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(float(low), float(high), "bootstrap")


def _interval_of_share(drawn: np.ndarray, fewest: int) -> Interval:
    """The interval of a probability.

    Where every pair ends alike, so does it in every resample, and the bootstrap would be sure of what few seeds cannot
    show.  Then it is only known that such an end has at least the probability `bound`, for as many independent pairs
    as the smaller side has seeds.
    """
    if np.ptp(drawn) > 0.0:
        return _interval(drawn, fewest)
    value, least = float(drawn[0]), bound(fewest)
    return Interval(value * least, 1.0 - (1.0 - value) * least, "bound")
