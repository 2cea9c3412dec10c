"""Beliefs carried through models: linear systems in closed form, sampling, slopes, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from forethought.math.belief import Belief, LinearActions, OpenLoopActions, advance, forecast
from forethought.math.moments import linear
from forethought.math.moments_gp import se_moments
from forethought.types import Spec
from se_cases import covariance, moments_of, posterior, predict, quadrature

SPEC = Spec(2, 1)
A = np.array([[1.0, 0.1], [-0.2, 0.9]])
B = np.array([[0.0], [0.3]])
NOISE = np.array([1e-3, 4e-3])
START = Belief(np.array([0.5, -0.3]), covariance(2, 0.2))
ahead = jax.jit(forecast, static_argnums=(5,))


def linear_change() -> Partial:
    """x' - x of x' = A x + B u + c."""
    return Partial(linear, np.concatenate([A - np.eye(2), B], axis=1), np.array([0.01, -0.02]))


def test_a_linear_system_under_a_linear_policy_follows_the_closed_form():
    gain, offset = np.array([[-0.5, 0.4]]), np.array([0.1])
    got = ahead(SPEC, linear_change(), LinearActions(gain, offset), NOISE, START, 12)
    m, s = START
    closed = A + B @ gain
    for i in range(12):
        np.testing.assert_allclose(got.action[i], gain @ m + offset, atol=1e-13)
        m, s = closed @ m + B @ offset + np.array([0.01, -0.02]), closed @ s @ closed.T + np.diag(NOISE)
        np.testing.assert_allclose(got.mean[i], m, atol=1e-12)
        np.testing.assert_allclose(got.cov[i], s, atol=1e-12)
        np.testing.assert_allclose(got.least[i], np.linalg.eigvalsh(s)[0], atol=1e-12)


def test_a_linear_system_under_a_plan_follows_the_closed_form():
    us = np.random.default_rng(0).normal(size=(6, 1))
    got = ahead(SPEC, linear_change(), OpenLoopActions(us), NOISE, START, 6)
    m, s = START
    for i in range(6):
        m, s = A @ m + B @ us[i] + np.array([0.01, -0.02]), A @ s @ A.T + np.diag(NOISE)
        np.testing.assert_allclose(got.mean[i], m, atol=1e-12)
        np.testing.assert_allclose(got.cov[i], s, atol=1e-12)
    np.testing.assert_array_equal(got.action, us)


def gp(f: int = 3, **kwargs) -> Partial:
    """Changes of two states by Gaussian processes."""
    p = posterior(k=2, f=f, **kwargs)
    return Partial(se_moments, p._replace(offset=0.1 * p.offset))


def test_one_step_under_a_linear_policy_is_exact():
    change, policy = gp(), LinearActions(np.array([[-0.5, 0.4]]), np.array([0.1]))
    got, action = jax.jit(advance)(SPEC, change, policy, NOISE, START, jnp.int32(0))
    x, weight = quadrature(*START)
    u = x @ policy.gain.T + policy.offset
    mean, variance = predict(change.args[0], np.concatenate([x, u], axis=1))
    expected, cov, _ = moments_of(x, weight, x + mean, variance + NOISE)
    np.testing.assert_allclose(got.mean, expected, atol=1e-9)
    np.testing.assert_allclose(got.cov, cov, atol=1e-9)
    np.testing.assert_allclose(action.mean, weight @ u, atol=1e-12)


@pytest.mark.parametrize("squash", ["sine", "flat"])
def test_one_step_through_angles_and_squashed_actions_agrees_with_sampling(squash):
    """Features of a Gaussian are not Gaussian: for a spread of 0.2 rad the belief is right to a few percent."""
    spec = Spec(2, 1, angles=(1,))
    limits = (np.array([-2.0]), np.array([1.0]))
    policy = LinearActions(np.array([[-0.8, 1.1]]), np.array([0.2]), limits, squash)
    change = gp(4)
    got, action = jax.jit(advance)(spec, change, policy, NOISE, START, jnp.int32(0))
    rng = np.random.default_rng(1)
    x = rng.multivariate_normal(*START, 200_000)
    v = x @ policy.gain.T + policy.offset
    s = np.sin(v) if squash == "sine" else (9 * np.sin(v) + np.sin(3 * v)) / 8
    u = -0.5 + 1.5 * s
    mean, variance = predict(change.args[0], np.column_stack([x[:, 0], np.sin(x[:, 1]), np.cos(x[:, 1]), u]))
    y = x + mean + rng.normal(size=x.shape) * np.sqrt(variance + NOISE)
    std = y.std(axis=0)
    np.testing.assert_allclose(action.mean, u.mean(axis=0), atol=0.01 * u.std())
    np.testing.assert_allclose((got.mean - y.mean(axis=0)) / std, 0.0, atol=0.02)
    np.testing.assert_allclose((got.cov - np.cov(y.T)) / np.outer(std, std), 0.0, atol=0.04)


def test_a_small_spread_moves_as_the_linearised_loop():
    spec = Spec(2, 1, angles=(0,))
    policy = LinearActions(np.array([[-0.8, 1.1]]), np.array([0.2]), (np.array([-2.0]), np.array([1.0])))
    change = gp(4, known=True)
    one = jax.jit(lambda m, s: advance(spec, change, policy, np.zeros(2), Belief(m, s), jnp.int32(0))[0])
    slope = jax.jit(jax.jacfwd(lambda m: one(m, jnp.zeros((2, 2))).mean))(START.mean)
    for size in (1e-3, 1e-4, 1e-5):
        small = covariance(2, size)
        np.testing.assert_allclose(one(START.mean, small).cov / size**2, slope @ small @ slope.T / size**2, atol=1e-5)


def test_a_mean_may_pass_half_a_turn():
    """Between two beliefs a whole turn apart there is no difference but the turn."""
    spec, policy = Spec(2, 1, angles=(1,)), OpenLoopActions(np.full((5, 1), 0.4))
    change = gp(4)
    a = ahead(spec, change, policy, NOISE, START, 5)
    b = ahead(spec, change, policy, NOISE, Belief(START.mean + np.array([0.0, 2 * np.pi]), START.cov), 5)
    np.testing.assert_allclose(b.mean, a.mean + np.array([0.0, 2 * np.pi]), atol=1e-9)
    np.testing.assert_allclose(b.cov, a.cov, atol=1e-9)


def rollout_cost(theta, change, spread):
    policy = LinearActions(theta[None, :2], theta[2:], (np.array([-2.0]), np.array([1.0])))
    start = Belief(START.mean, spread * START.cov)
    got = forecast(Spec(2, 1, angles=(1,)), change, policy, spread * NOISE, start, 6)
    return jnp.sum(got.mean**2) + jnp.sum(jnp.trace(got.cov, axis1=1, axis2=2))


cost_and_slope = jax.jit(jax.value_and_grad(rollout_cost))


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_gradients_of_a_rollout_are_finite_and_those_of_differences(spread):
    change, theta = gp(4), np.array([-0.8, 1.1, 0.2])
    cost = lambda theta: cost_and_slope(theta, change, spread)[0]
    _, gradient = cost_and_slope(theta, change, spread)
    assert np.all(np.isfinite(gradient))
    for e in 1e-6 * np.eye(3):
        numeric = (cost(theta + e) - cost(theta - e)) / 2e-6
        np.testing.assert_allclose(gradient @ e / 1e-6, numeric, rtol=1e-5, atol=1e-6)


def test_no_eigenvalue_is_clipped():
    """What is not a covariance stays none, and the forecast says so."""
    wrong = Belief(START.mean, np.diag([0.1, -0.05]))
    got = ahead(SPEC, linear_change(), OpenLoopActions(np.zeros((1, 1))), np.zeros(2), wrong, 1)
    expected = np.linalg.eigvalsh(A @ wrong.cov @ A.T)[0]
    assert expected < 0.0
    np.testing.assert_allclose(got.least[0], expected, atol=1e-12)


def test_uncertainty_grows_where_there_are_no_data():
    change, still = gp(), OpenLoopActions(np.zeros((10, 1)))
    inside = ahead(SPEC, change, still, NOISE, Belief(np.zeros(2), 1e-4 * np.eye(2)), 3)
    outside = ahead(SPEC, change, still, NOISE, Belief(np.full(2, 20.0), 1e-4 * np.eye(2)), 3)
    assert np.all(np.trace(outside.cov, axis1=1, axis2=2) > 3.0 * np.trace(inside.cov, axis1=1, axis2=2))
    assert np.all(inside.least > 0.0)
