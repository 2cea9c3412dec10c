"""The statistics, each against something that does not share its code; and whether intervals cover what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from forethought.comparing import statistics
from forethought.comparing.statistics import (
    bound,
    iqm,
    iqm_interval,
    paired_probability,
    probability_of_improvement,
    steps_to_threshold,
    stratified_iqm_interval,
)


@pytest.mark.parametrize("count", [4, 8, 12, 40])
def test_the_iqm_is_the_trimmed_mean_where_four_divides(count) -> None:
    values = np.random.default_rng(count).normal(size=count)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 10])
def test_the_iqm_counts_edges_in_part(count) -> None:
    """Four copies of each value have the same quantiles, and there the trimmed mean cuts at the edges of a copy."""
    values = np.random.default_rng(count).normal(size=count)
    assert iqm(values) == pytest.approx(stats.trim_mean(np.repeat(values, 4), 0.25), rel=1e-12)


def test_the_iqm_by_hand() -> None:
    """Of three values the middle one counts 4/6, and the others 1/6 each."""
    assert iqm([3.0, 0.0, 30.0]) == pytest.approx(0 / 6 + 3 * 4 / 6 + 30 / 6)
    assert iqm([7.0]) == 7.0


def brute(x, y) -> float:
    return sum((a > b) + 0.5 * (a == b) for a in x for b in y) / (len(x) * len(y))


def test_the_probability_of_improvement_is_the_share_of_pairs() -> None:
    random = np.random.default_rng(1)
    x, y = random.integers(6, size=5).astype(float), random.integers(6, size=7).astype(float)
    assert probability_of_improvement([(x, y)]).value == pytest.approx(brute(x, y))
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement([(x, y)]).value == pytest.approx(u / 35)
    assert probability_of_improvement([(y, x)]).value == pytest.approx(1 - u / 35)
    other = x[:4] + 1.0
    both = probability_of_improvement([(x, y), (other, y)]).value
    assert both == pytest.approx(0.5 * (brute(x, y) + brute(other, y))), "tasks count alike"


def test_the_paired_probability_is_the_share_of_seeds() -> None:
    """A difference that is small beside what seeds do to both is seen by pairs of a seed only."""
    x, y = np.array([1.0, 11.0, 21.0, 31.0]), np.array([0.0, 10.0, 20.0, 31.0])
    assert paired_probability([(x, y)]).value == 3.5 / 4
    assert probability_of_improvement([(x, y)]).value == brute(x, y) < 0.7


def test_bootstraps_match_an_independent_one() -> None:
    """scipy's plain percentile interval of the same statistic, at the levels of ours."""
    values = np.random.default_rng(2).normal(size=10)
    tail = stats.norm.cdf(-math.sqrt(10 / 9) * stats.t.ppf(0.975, 9))
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: np.sort(x, axis) @ statistics.iqm_weights(10),
        confidence_level=1 - 2 * tail,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    found = iqm_interval(values)
    assert found is not None
    assert found[:2] == pytest.approx((theirs.low, theirs.high), abs=0.1)
    wins = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    found = paired_probability([(wins, np.full(10, 0.5))]).interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((stats.binom.ppf([tail, 1 - tail], 10, 0.8)) / 10, abs=0.01)


def test_strata_are_drawn_inside_themselves() -> None:
    """Two tasks a thousand apart: whoever drew over both would find an interval as wide as what lies between them."""
    random = np.random.default_rng(4)
    strata = [random.normal(size=8), 1000.0 + random.normal(size=8)]
    found = stratified_iqm_interval(strata)
    pooled = iqm_interval(np.concatenate(strata))
    assert found is not None
    assert pooled is not None
    assert found.high - found.low < 10.0
    assert pooled.high - pooled.low > 500.0


def test_too_few_seeds_have_no_interval() -> None:
    assert iqm_interval([1.0, 2.0]) is None
    assert iqm_interval([1.0, 2.0, 3.0]) is not None
    assert probability_of_improvement([([1.0, 2.0], [0.0] * 5)]).interval is None
    assert paired_probability([([1.0, 2.0], [0.0, 3.0])]).interval is None


def test_one_that_always_wins_is_not_certain_to() -> None:
    """Every resample has it win too; five wins in a row are no surprise down to 0.025 ** (1 / 5)."""
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5
    exact = stats.binomtest(5, 5).proportion_ci(0.95, "exact").low
    for found in (probability_of_improvement([(x, y)]), paired_probability([(x, y)])):
        assert found.value == 1.0
        assert found.interval is not None
        assert found.interval == (pytest.approx(exact), 1.0, "bound")
    lost = probability_of_improvement([(y, x)]).interval
    assert lost is not None
    assert lost[:2] == (0.0, pytest.approx(1 - exact))
    tied = paired_probability([(y, y)]).interval
    assert tied is not None
    assert tied[:2] == (pytest.approx(exact / 2), pytest.approx(1 - exact / 2))
    assert bound(5) == pytest.approx(exact)


@pytest.mark.parametrize("count", range(3, 21))
def test_no_number_of_seeds_makes_one_that_always_wins_certain_to(count) -> None:
    """Rounding must not make resamples differ that are all alike."""
    ones, zeros = np.ones(count), np.zeros(count + 2)
    for strata in (1, 2, 3):
        won = probability_of_improvement([(ones, zeros)] * strata).interval
        tied = probability_of_improvement([(ones, np.ones(count + 2))] * strata).interval
        exact = stats.binomtest(count, count).proportion_ci(0.95, "exact").low
        assert won == (pytest.approx(exact), 1.0, "bound")
        assert tied == (pytest.approx(exact / 2), pytest.approx(1 - exact / 2), "bound")


@pytest.mark.parametrize("seeds", [7, 10])
def test_the_interval_of_a_probability_covers_what_it_says(seeds, monkeypatch) -> None:
    """Where X beats Y in 92 of 100 and often in all pairs that were drawn."""
    monkeypatch.setattr(statistics, "DRAWS", 600)
    random, hits = np.random.default_rng(8), np.zeros(2)
    for _ in range(300):
        x, y = random.normal(size=seeds) + math.sqrt(2.0) * stats.norm.ppf(0.92), random.normal(size=seeds)
        for i, found in enumerate((probability_of_improvement([(x, y)]), paired_probability([(x, y)]))):
            assert found.interval is not None
            assert 0.0 <= found.interval.low <= found.value <= found.interval.high <= 1.0
            hits[i] += found.interval.low <= 0.92 <= found.interval.high
    assert np.all(hits / 300 >= 0.94), hits / 300


def test_the_same_runs_give_the_same_interval() -> None:
    values = np.random.default_rng(5).normal(size=6)
    assert iqm_interval(values) == iqm_interval(values)


def test_steps_to_threshold_by_hand() -> None:
    """Of five runs two reach it at 100 and 300; one was looked at until 200 only, two until 400 and never reached it.
    At 100: 4/5 are left. At 300, of the three still looked at, 2/3 of that: 8/15."""
    found = steps_to_threshold([100, 300, None, None, None], [400, 400, 200, 400, 400])
    assert found == (2, 5, None)
    assert steps_to_threshold([100, 300, None, 350, None], [400, 400, 200, 400, 400]) == (3, 5, 350)
    assert steps_to_threshold([100, 200, 200, 400], [400] * 4) == (4, 4, 200)
    assert steps_to_threshold([None, None], [10, 20]) == (0, 2, None)
    assert steps_to_threshold([100, None], [100, 200]).median == 100, "exactly half"


def test_steps_to_threshold_are_those_of_kaplan_and_meier() -> None:
    random = np.random.default_rng(6)
    for _ in range(20):
        times, ends = random.integers(1, 12, size=9), random.integers(1, 12, size=9)
        events = times <= ends
        reached = [int(t) if e else None for t, e in zip(times, events, strict=True)]
        data = stats.CensoredData(uncensored=times[events], right=ends[~events])
        survival = stats.ecdf(data).sf if events.any() else None
        below = [] if survival is None else survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
        expected = float(below[0]) if len(below) else None
        assert steps_to_threshold(reached, [int(e) for e in ends]).median == expected


def middle_mean(distribution) -> float:
    """The population's IQM: the mean of its quantiles from 1/4 to 3/4."""
    levels = (np.arange(20_000) + 0.5) / 40_000 + 0.25
    return float(np.mean(distribution.ppf(levels)))


@pytest.mark.parametrize(("seeds", "least"), [(5, 0.915), (10, 0.94)])
@pytest.mark.parametrize("population", [stats.norm(), stats.lognorm(1.0)], ids=["normal", "skewed"])
def test_the_interval_covers_what_it_says(seeds, least, population) -> None:
    """400 comparisons of which the truth is known; plain quantiles cover 0.87 to 0.90 of these. What was measured with
    4,000 each is in the module's docstring."""
    truth, random = middle_mean(population), np.random.default_rng(7)
    hits = 0
    for _ in range(400):
        found = iqm_interval(population.rvs(size=seeds, random_state=random), draws=600)
        assert found is not None
        hits += found.low <= truth <= found.high
    assert least <= hits / 400 <= 0.995
