"""Other Hessians and other regularisations than the usual ones: each is another program."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import control_cases as cc
from control_cases import Control, Mortal, check_gradient, wild
from forethought import ILQRStatus, ilqr
from forethought.math.control_problem import ControlProblem
from forethought.math.ilqr_solve import Options, solve

n, m, T = 4, 2, 12
TIGHT = {"cost_tolerance": 0.0}


def newton(q: Control):
    """One iteration of differential dynamic programming, as long as the cost falls visibly."""
    return ilqr(*q, second_order=True, iterations=1, tolerance=0.0, **TIGHT)


def newton_iterates(q: Control, count=18):
    found = []
    for _ in range(count):
        found.append(np.asarray(newton(q).us))
        q = q._replace(us=found[-1])
    return np.array(found)


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_differential_dynamic_programming_converges_quadratically(seed):
    """Each error is about the square of the one before, until rounding."""
    us = newton_iterates(wild(seed=seed, bend=0.2))
    errors = np.abs(us - us[-1]).max(axis=(1, 2))
    last = np.flatnonzero(errors > 1e-5)[-1]
    assert errors[last - 1] < 0.1
    assert errors[last] < 2.0 * errors[last - 1] ** 2
    assert errors[last + 1] < 1e-6


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_its_gains_are_the_derivatives_of_the_optimum(seed):
    """du_0/dx_0 by the implicit function theorem, with the whole Hessian: those of iterative LQR are others."""
    q = wild(seed=seed, bend=0.2)
    q = q._replace(us=newton_iterates(q)[-1])
    got = newton(q)
    check_gradient(q, got)
    assert got.relative_gradient < 1e-7
    hessian, mixed = cc.curves(q, got.us)
    moved = -np.linalg.solve(hessian, mixed).reshape(T, m, n)
    np.testing.assert_allclose(got.K[0], moved[0], rtol=1e-6, atol=1e-7)
    assert np.abs(cc.gains(q, got.xs, got.us)[0] - moved[0]).max() > 1e-3


def test_a_cost_that_is_not_convex_is_projected_and_states_may_be_held_back():
    """The gains are those of the nearest convex quadratic cost at each step; there, no regularisation is in them."""
    for seed in (1, 4):
        q = wild(seed=seed, bend=0.2, dent=2.0)
        got = ilqr(*q, hessian="projected", damping="state", **TIGHT)
        check_gradient(q, got)
        assert got.status == ILQRStatus.CONVERGED
        p = cc.expanded(q, got.xs, got.us)
        values, vectors = np.linalg.eigh(p.C)
        assert values.min() < -0.5
        C = np.einsum("tij,tj,tkj->tik", vectors, np.maximum(values, 0.0), vectors)
        np.testing.assert_allclose(got.K, cc.gains_of(p._replace(C=C)), rtol=1e-7, atol=1e-8)
        assert got.cost < cc.cost(q, q.us)


class Residual(eqx.Module):
    """R z + r + bend sin(z_0), a vector."""

    R: Any
    r: Any
    bend: Any

    def of(self, z):
        return self.R @ z + self.r + self.bend * jnp.sin(z[0])

    def __call__(self, x, u, t):
        del t
        return self.of(jnp.concatenate([x, u]))


class Last(eqx.Module):
    """Of the state alone."""

    residual: Residual

    def __call__(self, x):
        return self.residual.of(x)


class HalfSquare(eqx.Module):
    """1/2 |r|^2."""

    residual: Any

    def __call__(self, *z):
        return 0.5 * jnp.sum(self.residual(*z) ** 2)


@pytest.mark.parametrize("bend", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_gauss_newton_is_exact_for_linear_residuals_and_leaves_their_curvature_out(seed, bend):
    rng = np.random.default_rng(seed)
    residual = Residual(rng.standard_normal((7, n + m)), rng.standard_normal(7), bend * rng.standard_normal(7))
    last = Residual(rng.standard_normal((5, n)), rng.standard_normal(5), bend * rng.standard_normal(5))
    system = wild(seed=seed, bend=bend)
    got = ilqr(system.step, residual, Last(last), *system[3:], hessian="gauss-newton", **TIGHT)
    q = Control(system.step, HalfSquare(residual), HalfSquare(Last(last)), *system[3:])
    check_gradient(q, got)
    assert got.status == ILQRStatus.CONVERGED
    p = cc.expanded(q, got.xs, got.us)
    slope = lambda residual, z: residual.R + np.outer(residual.bend * np.cos(z[0]), np.eye(len(z))[0])
    gram = lambda J: J.T @ J
    z = np.concatenate([got.xs[:-1], got.us], axis=1)
    own = p._replace(C=np.stack([gram(slope(residual, each)) for each in z]), C_T=gram(slope(last, got.xs[-1])))
    np.testing.assert_allclose(got.K, cc.gains_of(own), rtol=1e-7, atol=1e-8)
    if bend == 0.0:
        np.testing.assert_allclose(own.C, p.C, atol=1e-10)
        assert got.iterations == 1
    else:
        assert np.abs(own.C - p.C).max() > 1e-2


class Ahead(eqx.Module):
    """A stage cost of (x, u, t) for a `ControlProblem`."""

    stage: Any

    def __call__(self, x, u, y, t):
        del y
        return self.stage(x, u, t)


@eqx.filter_jit
def mortal(q: Control, wall):
    problem = ControlProblem(q.step, Ahead(q.stage), q.terminal, Mortal(wall))
    xs = jnp.broadcast_to(q.x0, (T + 1, n))
    return solve(problem, xs, jnp.asarray(q.us), None, Options(cost_tolerance=0.0))


@pytest.mark.parametrize("wall", [-10.0, 0.5, 1e6])
def test_nothing_is_charged_after_the_end_of_an_episode(wall):
    """It ends with the first step, on the way or not at all; the gradient is that of what is charged."""
    q = wild(seed=1, bend=0.2)
    got = mortal(q, np.float64(wall))
    assert got.trail.cost <= mortal_cost(q, q.us, wall)
    us = np.asarray(got.trail.us)
    xs = np.asarray(cc.rollout(q.step, q.x0, us))
    np.testing.assert_allclose(got.trail.xs, xs, rtol=1e-10, atol=1e-10)
    lives = np.cumprod(np.append(True, xs[1:, 0] < wall)).astype(bool)
    np.testing.assert_array_equal(got.trail.alive, lives)
    assert float(got.trail.cost) == pytest.approx(mortal_cost(q, us, wall), rel=1e-10)
    steps = int(lives[:-1].sum())
    assert not np.asarray(got.slope.gradient)[steps:].any()
    if wall != 1e6:
        assert steps < T
    else:
        np.testing.assert_allclose(got.slope.gradient, cc.gradient(q, us), atol=1e-9)
        assert got.status == ILQRStatus.CONVERGED
    assert all(np.isfinite(leaf).all() for leaf in (got.K, got.trail.us, got.slope.gradient))


def mortal_cost(q: Control, us, wall) -> float:
    """In NumPy."""
    x, total = np.asarray(q.x0), 0.0
    for t, u in enumerate(np.asarray(us)):
        z = np.concatenate([x, u])
        total += 0.5 * z @ q.stage.C[t] @ z + q.stage.c[t] @ z + q.stage.g @ np.cos(q.stage.H @ z)
        x = q.step.F[t] @ z + q.step.f[t] + q.step.W @ np.sin(q.step.V @ z + q.step.b)
        if not x[0] < wall:
            return float(total)
    return float(total + 0.5 * x @ q.terminal.C @ x + q.terminal.c @ x)
