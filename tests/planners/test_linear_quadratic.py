"""Every sampling planner against the Riccati optimum of a linear-quadratic problem."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import QF, X0, A, B, Q, R, lq_problem
from forethought.math.rollout import Imagination
from forethought.planners.cem import CEM
from forethought.planners.icem import ICEM
from forethought.planners.mppi import MPPI, path_weights
from forethought.planners.shooting import RandomShooting
from oracles import lqr_actions, lqr_cost

ONE = Imagination(particles=1)
# A long search with white noise of one width, as the optimum of this problem asks for.
SEARCH = ICEM(ONE, samples=256, elites=40, iterations=15, kept=1, beta=0.0, scale=0.5, narrowest=1.0, momentum=0.1)
PLANNERS = [
    pytest.param(RandomShooting(ONE, samples=30_000, scale=0.5), 4, id="shooting"),
    pytest.param(CEM(ONE, samples=200, elites=20, iterations=15), 10, id="cem"),
    pytest.param(SEARCH, 10, id="icem"),
    pytest.param(MPPI(ONE, samples=256, iterations=15, beta=1.0, shrink=0.75), 10, id="mppi"),
]


@eqx.filter_jit
def solve(planner, problem, key):
    return planner.plan(problem, planner.init(problem), key)


def true_cost(us: np.ndarray) -> float:
    x, total = X0.astype(float), 0.0
    for u in us:
        total += x @ Q @ x + u @ R @ u
        x = A @ x + B @ u
    return float(total + x @ QF @ x)


def test_the_oracles_agree() -> None:
    us = lqr_actions(A, B, Q, R, QF, X0, 10)
    assert np.abs(us).max() < 6.0, "the limits must not be active, or Riccati is no oracle"
    np.testing.assert_allclose(true_cost(us), lqr_cost(A, B, Q, R, QF, X0, 10), rtol=1e-6)


@pytest.mark.parametrize(("planner", "horizon"), PLANNERS)
def test_cost_is_within_two_percent_of_the_optimum(planner, horizon) -> None:
    best = lqr_cost(A, B, Q, R, QF, X0, horizon)
    plan, _ = solve(planner, lq_problem(horizon), jr.key(0))
    cost = true_cost(np.asarray(plan.policy.us))
    np.testing.assert_allclose(plan.cost, cost, rtol=1e-4)  # what the plan promises is what it costs
    assert best * (1 - 1e-6) <= cost <= 1.02 * best
    assert bool(plan.ok)


@pytest.mark.parametrize(("planner", "horizon"), PLANNERS)
def test_shift_drops_exactly_one_action(planner, horizon) -> None:
    _, warm = solve(planner, lq_problem(horizon), jr.key(1))
    shifted = planner.shift(warm)
    np.testing.assert_array_equal(shifted.mean[:-1], warm.mean[1:])
    np.testing.assert_array_equal(shifted.mean[-1], warm.mean[-1])
    if isinstance(planner, ICEM):
        np.testing.assert_array_equal(shifted.kept[:, :-1], warm.kept[:, 1:])


@pytest.mark.parametrize(("planner", "horizon"), PLANNERS)
def test_a_nan_state_or_a_broken_model_gives_the_safe_action(planner, horizon) -> None:
    problem = lq_problem(horizon)
    nan_state = eqx.tree_at(lambda p: p.x0, problem, jnp.asarray([jnp.nan, 0.0], jnp.float32))
    broken = eqx.tree_at(lambda p: p.dynamics.A, problem, np.full((2, 2), np.nan, np.float32))
    for bad in (nan_state, broken):
        plan, warm = solve(planner, bad, jr.key(2))
        assert not bool(plan.ok)
        assert not np.isfinite(plan.cost)
        np.testing.assert_array_equal(plan.policy.us, np.zeros((horizon, 1)))
        assert np.all(np.isfinite(warm.mean))


def test_path_weights_have_the_stated_effective_size() -> None:
    costs = jnp.asarray(np.random.default_rng(0).gamma(2.0, 1000.0, 500), jnp.float32)
    weights = path_weights(costs, 0.1)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-5)
    np.testing.assert_allclose(1.0 / jnp.sum(weights**2), 50.0, rtol=0.01)
    order = np.argsort(np.asarray(costs))
    assert np.all(np.diff(np.asarray(weights)[order]) <= 0)
    scaled = path_weights(costs * 1e-6, 0.1)
    np.testing.assert_allclose(weights, scaled, rtol=1e-2)


def test_path_weights_ignore_costs_that_are_not_finite() -> None:
    costs = jnp.asarray([1.0, np.nan, 2.0, np.inf, 3.0], jnp.float32)
    weights = np.asarray(path_weights(costs, 0.5))
    assert weights[1] == 0.0
    assert weights[3] == 0.0
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(path_weights(jnp.full(4, jnp.inf), 0.5), 0.25)


def test_mppi_weighted_mean_matches_the_gaussian_posterior() -> None:
    """Samples N(mu, S) weighted by exp(-(g'z + z'Hz/2)/lambda) have mean (S^-1 + H/l)^-1 (S^-1 mu - g/l)."""
    rng = np.random.default_rng(1)
    mu, S, H, g, temperature = np.array([0.3, -0.2]), np.diag([0.5, 0.8]), np.array([[2.0, 0.5], [0.5, 1.0]]), 0.7, 1.3
    z = rng.multivariate_normal(mu, S, 400_000)
    costs = z @ np.full(2, g) + 0.5 * np.einsum("ni,ij,nj->n", z, H, z)
    exact = np.exp(-(costs - costs.min()) / temperature)
    effective = exact.sum() ** 2 / (exact**2).sum() / len(z)
    weights = np.asarray(path_weights(jnp.asarray(costs, jnp.float32), float(effective)), float)
    precision = np.linalg.inv(S)
    expected = np.linalg.solve(precision + H / temperature, precision @ mu - g / temperature)
    np.testing.assert_allclose(weights @ z, expected, atol=0.02)
