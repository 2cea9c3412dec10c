"""Iterative LQR against dense solves, SciPy's bounded minimiser and JAX's gradient of the rolled-out cost."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import control_cases as cc
from control_cases import acrobot_step, bounded_best, check_optimum, linear_quadratic, pendulum, wild
from forethought import ILQRStatus, ilqr
from lqr_cases import best, case
from lqr_cases import total as quadratic_total

n, m, T = 4, 2, 12
SHAPE = (T, m)
TIGHT = {"cost_tolerance": 0.0}
"""So that solves go on until the gradient is small.  One setting: one program."""


def limits(lo, hi):
    return np.broadcast_to(np.asarray(lo, float), SHAPE), np.broadcast_to(np.asarray(hi, float), SHAPE)


def quadratic(seed, scale=3.0, **kwargs):
    """A linear-quadratic problem with controls that are far off, and its arrays."""
    rng = np.random.default_rng(seed)
    p, x0 = case(n, m, T, seed=seed, **kwargs), rng.standard_normal(n)
    return linear_quadratic(p, x0, scale * rng.standard_normal(SHAPE)), p


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_quadratic_problem_takes_one_iteration_from_any_controls(seed):
    q, p = quadratic(seed, scale=10.0**seed)
    got = ilqr(*q, **TIGHT)
    xs, us, least = best(p, q.x0)
    assert got.status == ILQRStatus.CONVERGED
    assert got.iterations == 1
    np.testing.assert_allclose(got.us, us, rtol=1e-9, atol=1e-9 * np.abs(us).max())
    np.testing.assert_allclose(got.xs, xs, rtol=1e-9, atol=1e-9 * np.abs(xs).max())
    assert float(got.cost) == pytest.approx(least, abs=1e-9 * abs(quadratic_total(p, xs, us - us)))
    np.testing.assert_allclose(got.K, cc.gains(q, xs, us), rtol=1e-9, atol=1e-10)


def test_at_the_optimum_there_is_nothing_to_do():
    q, p = quadratic(0)
    us = best(p, q.x0)[1]
    got = ilqr(*q._replace(us=us), **TIGHT)
    assert got.status == ILQRStatus.CONVERGED
    assert got.iterations == 0
    np.testing.assert_array_equal(got.us, us)
    np.testing.assert_allclose(got.K, cc.gains(q, got.xs, us), rtol=1e-9, atol=1e-10)


BOXES = [(-0.3, 0.4), (-1e-3, 2.0), ([-0.5, 0.1], [0.5, 0.1]), (0.2, np.inf), (-np.inf, -0.1), (-1e6, 1e6)]


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_linear_quadratic_problem_with_limits_is_that_of_a_bounded_minimiser(box, seed):
    """The last box holds nothing; in the third one control is fixed."""
    q, p = quadratic(seed)
    lo, hi = limits(*box)
    got = ilqr(*q, lo, hi, **TIGHT)
    us = bounded_best(p, q.x0, lo, hi)
    np.testing.assert_allclose(got.us, us, atol=1e-6)
    assert got.status == ILQRStatus.CONVERGED
    assert got.iterations <= 10
    assert (got.us >= lo).all()
    assert (got.us <= hi).all()
    np.testing.assert_allclose(got.K, cc.gains(q, got.xs, got.us, lo, hi), rtol=1e-7, atol=1e-8)


def test_limits_that_vary_in_time_are_kept():
    q, p = quadratic(3)
    rng = np.random.default_rng(0)
    lo = rng.standard_normal(SHAPE) - 0.2
    hi = lo + rng.exponential(0.5, SHAPE)
    got = ilqr(*q, lo, hi, **TIGHT)
    assert (got.us >= lo).all()
    assert (got.us <= hi).all()
    np.testing.assert_allclose(got.us, bounded_best(p, q.x0, lo, hi), atol=1e-6)


SYSTEMS = {
    "pendulum": pendulum(),
    **{f"wild {seed}": wild(seed=seed) for seed in range(5)},
    "not convex": wild(seed=1, dent=0.5),
    "unstable": wild(seed=2, bend=0.2, spread=2.0),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_gradient_and_gains_are_those_of_the_trajectory_that_is_returned(name):
    q = SYSTEMS[name]
    got = ilqr(*q, **TIGHT)
    check_optimum(q, got)
    assert got.cost < cc.cost(q, q.us)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "unstable"])
def test_so_they_are_within_limits(name):
    q, (lo, hi) = SYSTEMS[name], limits(*((-6.0, 4.0) if name == "pendulum" else (-0.3, 0.4)))
    got = ilqr(*q, lo, hi, **TIGHT)
    check_optimum(q, got, lo, hi)
    assert (got.us >= lo).all()
    assert (got.us <= hi).all()
    below, above = cc.held(got.us, lo, hi)
    assert 0 < np.sum(below | above) < T * m  # else this would say nothing
    assert not np.asarray(got.K)[below | above].any()


def test_a_cart_pole_whose_equations_are_scalars():
    """Steps are expanded one after the other there, as no matrix products are in it; limits of two shapes."""
    start = 0.1 * np.sin(3.0 * np.arange(30) * 0.05)[:, None]
    q = cc.Control(cc.cartpole_step, cc.cartpole_stage, cc.cartpole_end, np.zeros(4), start)
    got = ilqr(*q, -3.0, [3.0], **TIGHT)
    check_optimum(q, got, -3.0, 3.0)
    assert 0 < np.sum(np.abs(got.us) == 3.0) < 30
    assert got.cost < 0.5 * cc.cost(q, start)


def test_the_swing_up_of_an_acrobot():
    """A figure of the design notes for the start; other solvers end below 51."""
    goal = np.array([np.pi, 0.0, 0.0, 0.0])
    stage = lambda x, u, t: 0.05 * jnp.sum((x - goal) ** 2) + 0.005 * jnp.sum(u**2)
    terminal = lambda x: 500.0 * jnp.sum((x - goal) ** 2)
    q = cc.Control(acrobot_step, stage, terminal, np.zeros(4), np.zeros((50, 1)))
    assert cc.cost(q, q.us) == pytest.approx(4959.476212, abs=1e-6)
    got = ilqr(*q)
    assert got.cost < 51.0
    assert float(got.cost) == pytest.approx(cc.cost(q, got.us), rel=1e-9)
    assert got.status in (ILQRStatus.CONVERGED, ILQRStatus.SMALL_STEP)
    assert got.relative_gradient < 1e-3
    assert got.iterations < 200


@pytest.mark.parametrize("guess", ["random", "zero", "rollout"])
@pytest.mark.parametrize("seed", [1, 2, 4])
def test_multiple_shooting_finds_the_same_optimum_of_an_unstable_system(seed, guess):
    q = wild(seed=seed, bend=0.2, spread=2.0)
    xs = np.random.default_rng(seed).standard_normal((T + 1, n)) if guess == "random" else np.zeros((T + 1, n))
    xs = np.array(cc.rollout(q.step, q.x0, q.us)) if guess == "rollout" else xs
    got, single = ilqr(*q, xs=xs, **TIGHT), ilqr(*q, **TIGHT)
    check_optimum(q, got)
    assert float(got.cost) == pytest.approx(float(single.cost), rel=1e-9)
    np.testing.assert_allclose(got.us, single.us, atol=1e-4)


@pytest.mark.parametrize("guess", ["random", "zero"])
@pytest.mark.parametrize("seed", range(3))
def test_multiple_shooting_of_a_linear_quadratic_problem(seed, guess):
    """From zeros too: the guess costs nothing and has no gradient, but the states jump."""
    q, p = quadratic(seed)
    p = p._replace(c=0.0 * p.c, c_T=0.0 * p.c_T, f=0.0 * p.f)
    q = linear_quadratic(p, q.x0, 0.0 * q.us)
    xs = np.random.default_rng(seed).standard_normal((T + 1, n)) * (guess == "random")
    got = ilqr(*q, xs=xs, **TIGHT)
    np.testing.assert_allclose(got.us, best(p, q.x0)[1], atol=1e-8)
    check_optimum(q, got)
    assert got.iterations <= 1


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_where_jumps_are_left_cost_and_gradient_are_those_of_the_rollout(seed):
    """One iteration from a wild guess takes a share of the step: the states are not yet where controls lead."""
    q = wild(seed=seed, bend=1.0)
    xs = 3.0 * np.random.default_rng(seed).standard_normal((T + 1, n))
    got = ilqr(*q, xs=xs, iterations=1)
    assert got.status == ILQRStatus.ITERATION_LIMIT
    cc.check_gradient(q, got)
    assert got.relative_gradient > 1e-3
