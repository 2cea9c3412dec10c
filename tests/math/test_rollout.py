from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import QF, X0, A, B, Q, R, lq_problem
from forethought.core import AbstractCost, AbstractDynamics, Problem
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import Imagination, imagine, predict_ahead, score
from forethought.types import Array, Box


class Drift(AbstractDynamics):
    """y = x + speed + noise * eps: each drawn belief has its own speed."""

    speed: Array
    noise: float = 0.0

    def predict(self, x, u, t):
        return DiagonalGaussian(x + self.speed, jnp.full_like(x, self.noise))

    def draw(self, key, particles):
        return Drift(jnp.arange(particles, dtype=jnp.float32), self.noise)


class Position(AbstractCost):
    """Cost y[0] per step; the episode ends beyond `edge`."""

    edge: float = 1e9
    extras: int = 0

    def stage(self, x, u, y, t):
        return y[0]

    def terminal(self, x):
        return 1000.0 * jnp.ones((), x.dtype)

    def alive(self, y):
        return y[0] < self.edge


def drift_problem(dynamics, cost, horizon, discount=1.0):
    actions = Box(np.full(1, -1.0, np.float32), np.full(1, 1.0, np.float32))
    return Problem(dynamics, cost, actions, jnp.zeros(1, jnp.float32), jnp.zeros((), jnp.int32), horizon, discount)


def test_cost_of_a_plan_equals_a_hand_rollout() -> None:
    us = np.random.default_rng(0).uniform(-1, 1, (3, 5, 1)).astype(np.float32)
    problem = eqx.tree_at(lambda p: p.x0, lq_problem(5), jnp.asarray(X0))
    how = Imagination(particles=2)
    costs = imagine(how, problem.dynamics.draw(jr.key(0), 2), problem, us, jr.key(1))
    for i in range(3):
        x, total = X0.astype(float), 0.0
        for u in us[i]:
            total += x @ Q @ x + u @ R @ u
            x = A @ x + B @ u
        total += x @ QF @ x
        np.testing.assert_allclose(costs[:, i], total, rtol=1e-5)


def test_ts_inf_keeps_its_belief_and_ts_1_does_not() -> None:
    problem = drift_problem(Drift(jnp.zeros(())), Position(), 6)
    us = jnp.zeros((1, 6, 1), jnp.float32)
    fixed = imagine(Imagination(particles=3), problem.dynamics.draw(jr.key(0), 3), problem, us, jr.key(1))
    # Speed p for all 6 steps: cost p (1 + ... + 6), plus the terminal 1000.
    np.testing.assert_allclose(np.sort(fixed[:, 0]), 1000.0 + 21.0 * np.arange(3))
    mixed = imagine(
        Imagination(particles=3, propagation="ts-1"), problem.dynamics.draw(jr.key(0), 3), problem, us, jr.key(1)
    )
    assert not np.allclose(np.sort(mixed[:, 0]), np.sort(fixed[:, 0]))
    # Each step uses each belief once, so the particles' mean moves as before.
    np.testing.assert_allclose(jnp.mean(mixed), jnp.mean(fixed), rtol=1e-5)


def test_no_cost_after_an_imagined_end_and_no_terminal_value() -> None:
    problem = drift_problem(Drift(jnp.zeros(())), Position(edge=2.5), 6, discount=0.5)
    us = jnp.zeros((1, 6, 1), jnp.float32)
    costs = imagine(Imagination(particles=2), problem.dynamics.draw(jr.key(0), 2), problem, us, jr.key(1))
    # Belief 1 passes 1, 2, 3 and ends at 3 > 2.5, whose own cost still counts.
    np.testing.assert_allclose(costs[1, 0], 1.0 + 0.5 * 2.0 + 0.25 * 3.0)
    np.testing.assert_allclose(costs[0, 0], 1000.0 * 0.5**6)


def test_all_plans_share_the_random_numbers() -> None:
    problem = drift_problem(Drift(jnp.zeros(()), noise=1.0), Position(), 4)
    us = jnp.zeros((5, 4, 1), jnp.float32)
    costs = np.asarray(imagine(Imagination(particles=3), problem.dynamics.draw(jr.key(0), 3), problem, us, jr.key(1)))
    assert np.ptp(costs, axis=1).max() == 0.0
    assert np.ptp(costs - np.array([0.0, 10.0, 20.0])[:, None]) > 0.1  # but particles do not


@pytest.mark.parametrize("risk", [-1.0, 0.0, 2.0])
def test_risk_adds_the_spread_between_beliefs(risk) -> None:
    problem = drift_problem(Drift(jnp.zeros(())), Position(), 2)
    z = jnp.zeros((1, 2, 1), jnp.float32)
    each = 1000.0 + 3.0 * np.arange(4)
    value = score(Imagination(particles=4, propagation="ts-inf", risk=risk), problem, z, jr.key(0))
    np.testing.assert_allclose(value, each.mean() + risk * each.std(), rtol=1e-6)


def test_a_nan_anywhere_costs_infinity() -> None:
    class Broken(AbstractDynamics):
        tag: Array

        def predict(self, x, u, t):
            extra = jnp.where(t == 2, jnp.nan, 0.0).astype(x.dtype)
            return DiagonalGaussian(jnp.concatenate([x, extra[None]]), jnp.zeros((2,), x.dtype))

        def draw(self, key, particles):
            return Broken(jnp.zeros((particles,)))

    problem = drift_problem(Broken(jnp.zeros(())), Position(), 2)
    us = jnp.zeros((1, 4, 1), jnp.float32)
    fine = imagine(Imagination(particles=2), problem.dynamics.draw(jr.key(0), 2), problem, us[:, :2], jr.key(1))
    broken = imagine(Imagination(particles=2), problem.dynamics.draw(jr.key(0), 2), problem, us, jr.key(1))
    assert np.all(np.isfinite(fine))
    assert np.all(np.isposinf(broken)), "the NaN is only in an extra output, and the cost does not read it"


def test_predict_ahead_follows_the_mean() -> None:
    problem = lq_problem(3)
    us = np.array([[1.0], [-0.5], [0.2]], np.float32)
    path = predict_ahead(problem.dynamics, jnp.asarray(X0), us, jnp.zeros((), jnp.int32))
    x = X0
    for u, got in zip(us, path, strict=True):
        x = A @ x + B @ u
        np.testing.assert_allclose(got, x, rtol=1e-5)
