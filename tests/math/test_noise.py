from __future__ import annotations

import jax.random as jr
import numpy as np
import pytest

from forethought.math.noise import coloured


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("steps", [2, 7, 30])
def test_variance_is_one_at_every_step(beta, steps) -> None:
    z = np.asarray(coloured(jr.key(0), (20_000, steps, 2), beta))
    np.testing.assert_allclose(z.var(axis=0), 1.0, atol=0.06)  # six standard errors
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=0.05)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_spectrum_falls_with_the_stated_power(beta) -> None:
    steps = 128
    z = np.asarray(coloured(jr.key(1), (4000, steps, 1), beta))[..., 0]
    power = np.mean(np.abs(np.fft.rfft(z, axis=1)) ** 2, axis=0)
    band = slice(1, steps // 2)  # neither the zero frequency nor Nyquist, which has half the coefficients
    slope = np.polyfit(np.log(np.arange(steps // 2 + 1)[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.1)


def test_coordinates_are_independent_and_neighbours_in_time_are_not() -> None:
    z = np.asarray(coloured(jr.key(2), (20_000, 3, 2), 2.0))
    across = np.corrcoef(z[:, 1, 0], z[:, 1, 1])[0, 1]
    assert abs(across) < 0.03
    long = np.asarray(coloured(jr.key(3), (20_000, 30, 1), 2.0))[..., 0]
    assert np.corrcoef(long[:, 4], long[:, 5])[0, 1] > 0.8
