"""Gaussians through Gaussian processes, against quadrature, sampling and predictions at points."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.math.moments_gp import se_moments
from se_cases import covariance, moments_of, posterior, predict, quadrature

moments = jax.jit(se_moments)
MEAN = np.array([0.3, -0.4])


def close(got, expected, tolerance):
    """Relative to the largest entry."""
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=tolerance * np.max(np.abs(expected)))


@pytest.mark.parametrize("known", [False, True], ids=["uncertain", "known"])
@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_mean_covariance_and_cross_covariance_are_those_of_quadrature(size, seed, known):
    p, cov = posterior(seed=seed, known=known), covariance(2, size, seed)
    got = moments(p, MEAN, cov)
    points, weight = quadrature(MEAN, cov)
    mean, var, cross = moments_of(points, weight, *predict(p, points))
    close(got.mean, mean, 1e-8)
    close(got.cov, var, 1e-8)
    close(got.slope @ cov, cross, 1e-8)


@pytest.mark.parametrize("size", [0.2, 1.0])
def test_three_inputs_agree_with_sampling_to_one_percent(size):
    p, cov = posterior(f=3, real=30, pad=2, noise=0.02), covariance(3, size)
    mean = np.array([0.2, -0.1, 0.5])
    rng = np.random.default_rng(0)
    points = rng.multivariate_normal(mean, cov, 200_000)
    expected, var, cross = moments_of(points, np.full(len(points), 1 / len(points)), *predict(p, points))
    got = moments(p, mean, cov)
    std = np.sqrt(np.diag(var))
    np.testing.assert_allclose((got.mean - expected) / std, 0.0, atol=0.01)
    np.testing.assert_allclose((got.cov - var) / np.outer(std, std), 0.0, atol=0.01)
    inputs = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((got.slope @ cov - cross) / np.outer(std, inputs), 0.0, atol=0.01)


@pytest.mark.parametrize("noise", [0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("real", [5, 60])
def test_without_spread_it_is_the_prediction_at_the_point(noise, real):
    p = posterior(real=real, noise=noise)
    mean, variance = predict(p, MEAN[None])
    got = moments(p, MEAN, np.zeros((2, 2)))
    np.testing.assert_allclose(got.mean, mean[0], atol=1e-10)
    np.testing.assert_allclose(got.cov, np.diag(variance[0]), atol=1e-10)
    h = 1e-5 * np.eye(2)
    numeric = (predict(p, MEAN + h)[0] - predict(p, MEAN - h)[0]).T / 2e-5
    np.testing.assert_allclose(got.slope, numeric, atol=1e-6)


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_a_small_spread_is_carried_by_the_slope_without_cancellation(size):
    # Weights of 1e4 that nearly cancel: their products would leave an error of 1e-8.
    p, cov = posterior(real=60, noise=1e-3, known=True), covariance(2, size)
    got = moments(p, MEAN, cov)
    straight = got.slope @ cov @ got.slope.T
    # The next term of the series is of relative order size^2.
    np.testing.assert_allclose(got.cov, straight, rtol=0.0, atol=100 * size**2 * np.max(np.abs(straight)) + 1e-14)


@jax.jit
def weighed(mean, cov, p):
    """A random sum of all that comes out."""
    rng = np.random.default_rng(5)
    return sum(jnp.sum(rng.normal(size=part.shape) * part) for part in se_moments(p, mean, cov))


gradient = jax.jit(jax.grad(weighed, argnums=(0, 1)))


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_gradients_are_those_of_differences_and_finite_without_spread(spread):
    p, cov = posterior(real=8), spread * covariance(2, 0.4)
    by_mean, by_cov = gradient(MEAN, cov, p)
    value = lambda m, s: weighed(m, s, p)
    assert np.all(np.isfinite(by_mean))
    assert np.all(np.isfinite(by_cov))
    h = 1e-6
    for direction in np.eye(2):
        numeric = (value(MEAN + h * direction, cov) - value(MEAN - h * direction, cov)) / (2 * h)
        np.testing.assert_allclose(by_mean @ direction, numeric, atol=1e-6)
    for direction in (np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), np.array([[1.0, 0.5], [0.5, 1.0]])):
        # From both sides: the formulas hold a little beyond zero covariance.
        numeric = (value(MEAN, cov + h * direction) - value(MEAN, cov - h * direction)) / (2 * h)
        np.testing.assert_allclose(np.sum(by_cov * direction), numeric, atol=1e-6)


def test_padding_changes_nothing():
    cov = covariance(2, 0.5)
    for a, b in zip(moments(posterior(pad=0), MEAN, cov), moments(posterior(), MEAN, cov), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_a_spread_in_one_direction_only_is_allowed():
    p, direction = posterior(), np.array([[0.4], [-0.2]])
    flat = direction @ direction.T
    near = moments(p, MEAN, flat + 1e-12 * np.eye(2))
    got = moments(p, MEAN, flat)
    points, weight = quadrature(np.zeros(1), np.ones((1, 1)))
    points = MEAN + points @ direction.T
    mean, var, _ = moments_of(points, weight, *predict(p, points))
    close(got.mean, mean, 1e-9)
    close(got.cov, var, 1e-9)
    close(near.cov, got.cov, 1e-8)


@pytest.mark.parametrize("away", [30.0, 1e3, 1e6])
def test_far_from_the_data_it_is_the_prior(away):
    p = posterior()
    got = moments(p, MEAN + away, covariance(2, 0.1))
    np.testing.assert_allclose(got.mean, p.offset, atol=1e-12)
    np.testing.assert_allclose(got.cov, np.diag(p.signal**2), atol=1e-12)
    np.testing.assert_allclose(got.slope, 0.0, atol=1e-12)


@pytest.mark.parametrize("size", [10.0, 1e3, 1e8])
def test_a_spread_beyond_all_data_is_finite_and_positive(size):
    got = moments(posterior(), MEAN, covariance(2, size))
    assert all(np.all(np.isfinite(part)) for part in got)
    assert np.linalg.eigvalsh(got.cov)[0] > 0.0


@pytest.mark.parametrize("noise", [0.1, 1e-3])
def test_the_covariance_is_symmetric_and_no_further_below_zero_than_rounding(noise):
    p = posterior(real=60, noise=noise)
    for seed in range(10):
        size = 10.0 ** np.random.default_rng(seed).uniform(-4, 1)
        got = np.asarray(moments(p, MEAN, covariance(2, size, seed)).cov)
        np.testing.assert_array_equal(got, got.T)
        assert np.linalg.eigvalsh(got)[0] > -1e-9


def test_other_units_of_the_inputs_change_nothing_but_units():
    p, cov, unit = posterior(), covariance(2, 0.5), np.array([1e-4, 1e5])
    other = p._replace(lengths=p.lengths * unit, origin=p.origin * unit)
    a, b = moments(p, MEAN, cov), moments(other, MEAN * unit, cov * np.outer(unit, unit))
    close(b.mean, a.mean, 1e-10)
    close(b.cov, a.cov, 1e-9)
    close(b.slope * unit, a.slope, 1e-10)
