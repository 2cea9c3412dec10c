"""Gaussians through sines, squashing functions and saturating costs, against quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.costs.saturating import Saturating
from forethought.math.moments import after, beside, linear
from forethought.math.moments_features import feature_moments, saturating_moments, sine_moments, squash_moments
from forethought.math.scaling import features
from forethought.types import Spec
from se_cases import covariance, moments_of, quadrature

MEAN = np.array([0.7, -2.9])
LOW, HIGH = np.array([-1.0, 0.0]), np.array([1.0, 5.0])


def squashed(kind, v):
    """The squashing functions, written out."""
    s = np.sin(v) if kind == "sine" else (9.0 * np.sin(v) + np.sin(3.0 * v)) / 8.0
    return 0.5 * (LOW + HIGH) + 0.5 * (HIGH - LOW) * s


W = np.array([[1.5, 0.4], [0.4, 0.3]])
GOAL = np.array([0.2, -2.0])
CASES = {
    "sines": (
        lambda m, s: sine_moments(np.array([[1.0, 0.0], [0.5, -2.0], [0.0, 0.3]]), np.array([0.0, 1.0, -4.0]), m, s),
        lambda x: np.sin(x @ np.array([[1.0, 0.0], [0.5, -2.0], [0.0, 0.3]]).T + np.array([0.0, 1.0, -4.0])),
    ),
    "features": (
        lambda m, s: feature_moments(Spec(1, 1, angles=(0,)), m, s),
        lambda x: np.stack([np.sin(x[:, 0]), np.cos(x[:, 0]), x[:, 1]], axis=1),
    ),
    "two angles": (
        lambda m, s: feature_moments(Spec(2, 0, angles=(0, 1)), m, s),
        lambda x: np.concatenate([np.sin(x), np.cos(x)], axis=1),
    ),
    "sine": (lambda m, s: squash_moments("sine", LOW, HIGH, m, s), lambda x: squashed("sine", x)),
    "flat": (lambda m, s: squash_moments("flat", LOW, HIGH, m, s), lambda x: squashed("flat", x)),
    "cost": (
        lambda m, s: saturating_moments(GOAL, W, m, s),
        lambda x: 1.0 - np.exp(-np.einsum("ni,ij,nj->n", x - GOAL, W, x - GOAL))[:, None],
    ),
    "diagonal cost": (
        lambda m, s: saturating_moments(GOAL, np.array([0.5, 0.0]), m, s),
        lambda x: 1.0 - np.exp(-0.5 * (x[:, :1] - GOAL[0]) ** 2),
    ),
    "linear": (
        lambda m, s: linear(np.array([[1.0, 2.0]]), np.array([3.0]), m, s),
        lambda x: x @ np.array([[1.0], [2.0]]) + 3.0,
    ),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request):
    """Moments, compiled, and the function itself."""
    ours, function = CASES[request.param]
    return jax.jit(ours), function


@pytest.mark.parametrize("size", [0.05, 0.5, 1.2])
def test_moments_are_those_of_quadrature(case, size):
    ours, function = case
    cov = covariance(2, size)
    points, weight = quadrature(MEAN, cov, 120)
    y = function(points)
    mean, var, cross = moments_of(points, weight, y, np.zeros_like(y))
    got = ours(MEAN, cov)
    np.testing.assert_allclose(got.mean, mean, atol=1e-9)
    np.testing.assert_allclose(got.cov, var, atol=1e-9)
    np.testing.assert_allclose(got.slope @ cov, cross, atol=1e-9)


def test_without_spread_it_is_the_function_and_its_slope(case):
    ours, function = case
    got = ours(MEAN, np.zeros((2, 2)))
    np.testing.assert_allclose(got.mean, function(MEAN[None])[0], atol=1e-14)
    np.testing.assert_array_equal(got.cov, 0.0)
    step = 1e-6 * np.eye(2)
    numeric = ((function(MEAN + step) - function(MEAN - step)) / 2e-6).T
    np.testing.assert_allclose(got.slope, numeric, atol=1e-8)


@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-8])
def test_a_small_spread_keeps_its_digits(case, size):
    ours, _ = case
    cov = covariance(2, size)
    got = ours(MEAN, cov)
    straight = got.slope @ cov @ got.slope.T
    np.testing.assert_allclose(got.cov, straight, rtol=0.0, atol=(100 * size**2 + 1e-7) * np.max(straight))


@pytest.mark.parametrize("size", [30.0, 1e3, 1e7])
def test_a_spread_over_many_turns_is_finite(case, size):
    got = case[0](MEAN, covariance(2, size))
    assert all(np.all(np.isfinite(part)) for part in got)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_gradients_are_finite_and_those_of_differences(case, spread):
    ours = case[0]
    value = jax.jit(lambda m, s: sum(jnp.sum(jnp.sin(part)) for part in ours(m, s)))
    cov = spread**2 * np.eye(2)
    by_mean, by_cov = jax.jit(jax.grad(value, argnums=(0, 1)))(MEAN, cov)
    h = 1e-6
    for i in range(2):
        e, ee = h * np.eye(2)[i], h * np.diag(np.eye(2)[i])
        np.testing.assert_allclose(by_mean[i], (value(MEAN + e, cov) - value(MEAN - e, cov)) / (2 * h), atol=1e-7)
        np.testing.assert_allclose(by_cov[i, i], (value(MEAN, cov + ee) - value(MEAN, cov - ee)) / (2 * h), atol=1e-7)


@pytest.mark.parametrize("angles", [(), (1,), (0, 2), (2, 0), (0, 1, 2)])
def test_features_come_in_the_order_in_which_models_see_them(angles):
    spec, z = Spec(3, 2, angles=angles), np.array([0.1, 2.0, -1.0, 0.5, -0.3])
    got = jax.jit(feature_moments)(spec, z, np.zeros((5, 5)))
    np.testing.assert_allclose(got.mean, features(spec, jnp.asarray(z[:3]), jnp.asarray(z[3:])), atol=1e-15)
    slope = jax.jit(jax.jacfwd(lambda z: features(spec, z[:3], z[3:])))(z)
    np.testing.assert_allclose(got.slope, slope, atol=1e-15)


def test_features_of_a_state_and_an_action_that_vary_together():
    spec, cov = Spec(2, 1, angles=(1,)), covariance(3, 0.6)
    mean = np.array([0.4, 3.0, -0.5])
    points, weight = quadrature(mean, cov, 40)
    seen = np.stack([points[:, 0], np.sin(points[:, 1]), np.cos(points[:, 1]), points[:, 2]], axis=1)
    expected = moments_of(points, weight, seen, np.zeros_like(seen))
    got = feature_moments(spec, mean, cov)
    for a, b in zip((got.mean, got.cov, got.slope @ cov), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("kind", ["sine", "flat"])
def test_squashed_actions_stay_within_their_limits(kind):
    squash = jax.jit(lambda mean: squash_moments(kind, LOW, HIGH, mean, covariance(2, 1.0)))
    for mean in np.random.default_rng(0).normal(0.0, 5.0, (20, 2)):
        got = squash(mean)
        assert np.all(got.mean >= LOW)
        assert np.all(got.mean <= HIGH)
        # No distribution inside the limits has a larger variance.
        assert np.all(np.diag(got.cov) <= (got.mean - LOW) * (HIGH - got.mean) + 1e-12)


def test_the_cost_is_the_library_s_own():
    cost, x = Saturating(GOAL, W), np.array([1.0, -1.5])
    got = saturating_moments(GOAL, W, x, np.zeros((2, 2)))
    expected = cost.stage(jnp.asarray(x), jnp.zeros(1), jnp.asarray(x), jnp.int32(0))
    np.testing.assert_allclose(got.mean[0], expected, rtol=1e-12)


@pytest.mark.parametrize("mean", [[0.2, -2.0], [50.0, 50.0], [1e4, 0.0]])
def test_the_cost_stays_between_zero_and_one(mean):
    ours = jax.jit(CASES["cost"][0])
    for size in (0.0, 0.1, 10.0):
        got = ours(np.array(mean), size**2 * np.eye(2))
        assert 0.0 <= got.mean[0] <= 1.0
        assert 0.0 <= got.cov[0, 0] <= got.mean[0] * (1.0 - got.mean[0]) + 1e-15


def test_composed_linear_maps_are_linear_maps():
    rng = np.random.default_rng(3)
    cov, a, b = covariance(2, 0.5), rng.normal(size=(3, 2)), rng.normal(size=(2, 3))
    inner = linear(a, np.ones(3), MEAN, cov)
    got = after(inner, linear(b, np.zeros(2), inner.mean, inner.cov))
    for x, y in zip(got, linear(b @ a, b @ np.ones(3), MEAN, cov), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-12)
    both = beside(MEAN, cov, inner)
    stacked = np.concatenate([np.eye(2), a])
    np.testing.assert_allclose(both.cov, stacked @ cov @ stacked.T, atol=1e-12)
    np.testing.assert_allclose(both.slope, stacked)
