from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from forethought.math.stats import mean_interval, student_cdf, student_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 99])
def test_students_t_is_scipys(freedom):
    for t in (0.0, 0.3, 1.0, 2.5, 12.0):
        assert student_cdf(t, freedom) == pytest.approx(2.0 * stats.t.cdf(t, freedom) - 1.0, abs=1e-12)
    assert student_quantile(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).normal(-150.0, 40.0, 10)
    mean, interval = mean_interval(values.tolist())
    scale = stats.sem(values)
    assert mean == pytest.approx(values.mean())
    assert interval == pytest.approx(stats.t.interval(0.95, 9, values.mean(), scale))


def test_one_value_has_no_interval():
    assert mean_interval([3.0]) == (3.0, None)


def test_no_value_has_no_mean():
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_values_of_any_size_have_a_mean():
    """Squares and sums of such numbers are more than a float can be."""
    assert mean_interval([1.7e308] * 4) == (1.7e308, (1.7e308, 1.7e308))
    mean, interval = mean_interval([1e200, 3e200])
    assert mean == pytest.approx(2e200)
    assert interval == pytest.approx((2e200 - 12.706204736e200, 2e200 + 12.706204736e200))
    assert mean_interval([1.7e308, -1.7e308]) == (0.0, (-math.inf, math.inf))
    assert mean_interval([5e-324, 5e-324])[0] == 5e-324
    np.testing.assert_equal(mean_interval([math.inf, -math.inf]), (math.nan, (math.nan, math.nan)))
