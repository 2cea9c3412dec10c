"""Dual ascent on quadratic programs against SciPy's SLSQP, and on what has no solution."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from forethought.math.dual import Ascent, Residuals, climbed, dual_ascent, penalised, violation

n, equals, bounds = 4, 1, 5


class Program(NamedTuple):
    """minimise 1/2 x^T H x + g^T x with A x = b and C x <= d."""

    H: np.ndarray
    g: np.ndarray
    A: np.ndarray
    b: np.ndarray
    C: np.ndarray
    d: np.ndarray


def program(seed=0) -> Program:
    """Convex, with a point that keeps everything."""
    rng = np.random.default_rng(seed)
    root, A, C = (rng.standard_normal(shape) for shape in ((n, n), (equals, n), (bounds, n)))
    inside = rng.standard_normal(n)
    room = rng.exponential(0.3, bounds)
    return Program(root @ root.T + 0.3 * np.eye(n), 3.0 * rng.standard_normal(n), A, A @ inside, C, C @ inside + room)


def residuals(p: Program, x):
    return Residuals({"line": p.A @ x - p.b}, (p.C @ x - p.d,))


def augmented(p: Program, x, multipliers, step):
    """Its minimiser by Newton's method, from x: where no bound changes sides it is one step."""

    def newton(_, x):
        line = multipliers.equal["line"] + step * (p.A @ x - p.b)
        side = multipliers.less[0] + step * (p.C @ x - p.d)
        on = side > 0.0
        slope = p.H @ x + p.g + p.A.T @ line + p.C.T @ jnp.where(on, side, 0.0)
        curve = p.H + step * p.A.T @ p.A + step * (p.C.T * on) @ p.C
        return x - jnp.linalg.solve(curve, slope)

    return jax.lax.fori_loop(0, 25, newton, x)


def lagrangian(p: Program, x, multipliers, step):
    """The minimiser without any penalty, as in the lecture's dual ascent."""
    del x, step
    slope = p.g + p.A.T @ multipliers.equal["line"] + p.C.T @ multipliers.less[0]
    return -jnp.linalg.solve(p.H, slope)


USUAL = Ascent()


@functools.partial(jax.jit, static_argnames=("minimiser", "how"))
def ascend(p: Program, step, minimiser=augmented, how=USUAL):
    x = jnp.zeros(n)
    return dual_ascent(functools.partial(minimiser, p), functools.partial(residuals, p), x, step, how)


def reference(p: Program) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x by SLSQP, and the multipliers that hold the gradient there."""
    size = np.abs(p.g).max()
    found = minimize(
        lambda x: (0.5 * x @ p.H @ x + p.g @ x) / size,
        np.zeros(n),
        jac=lambda x: (p.H @ x + p.g) / size,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda x: p.A @ x - p.b, "jac": lambda x: p.A},
            {"type": "ineq", "fun": lambda x: p.d - p.C @ x, "jac": lambda x: -p.C},
        ],
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert found.success
    active = p.C @ found.x - p.d > -1e-6
    rows = np.concatenate([p.A, p.C[active]])
    every = np.linalg.lstsq(rows.T, -(p.H @ found.x + p.g), rcond=None)[0]
    less = np.zeros(bounds)
    less[active] = every[equals:]
    return found.x, every[:equals], less


def check(p: Program, got, tolerance=1e-5):
    x, equal, less = reference(p)
    np.testing.assert_allclose(got.x, x, atol=tolerance)
    scale = np.abs(np.concatenate([equal, less])).max()
    np.testing.assert_allclose(got.multipliers.equal["line"], equal, atol=tolerance * scale)
    np.testing.assert_allclose(got.multipliers.less[0], less, atol=tolerance * scale)
    assert got.converged
    found = np.max(np.concatenate([np.abs(p.A @ got.x - p.b), p.C @ got.x - p.d, [0.0]]))
    assert float(got.violation) == pytest.approx(found, abs=1e-12)
    assert got.violation <= 1e-6


SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_quadratic_program_is_solved_with_its_multipliers(seed):
    check(program(seed), ascend(program(seed), 1.0))


def test_bounds_are_kept_with_room_and_no_multiplier_or_without_room():
    """Complementary slackness, exactly: and both kinds occur."""
    kinds = set()
    for seed in SEEDS:
        p = program(seed)
        got = ascend(p, 1.0)
        room, price = p.d - p.C @ got.x, np.asarray(got.multipliers.less[0])
        assert (price >= 0.0).all()
        assert ((price == 0.0) | (np.abs(room) <= 1e-6)).all()
        kinds |= {bool(active) for active in price > 0.0}
    assert kinds == {True, False}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plain_dual_ascent_with_a_fixed_step_gets_there_too(seed):
    """A step below 2 / L of the dual function, whose curvature is that of A H^-1 A^T."""
    p = program(seed)
    rows = np.concatenate([p.A, p.C])
    step = 1.0 / np.linalg.norm(rows @ np.linalg.solve(p.H, rows.T), 2)
    got = ascend(p, step, lagrangian, Ascent(growth=1.0, rounds=200_000))
    check(p, got, 1e-4)
    assert got.step == step
    assert got.rounds > 40  # a fixed step is slow: it has not done something else


def test_an_iterate_of_plain_dual_ascent_is_the_textbook_s():
    """l <- l + a C(x), m <- max(0, m + a D(x)), where x minimises f + l C + m D: three rounds in NumPy."""
    p = program(3)
    got = ascend(p, 0.05, lagrangian, Ascent(growth=1.0, rounds=3, tolerance=0.0))
    line, side = np.zeros(equals), np.zeros(bounds)
    for _ in range(3):
        x = -np.linalg.solve(p.H, p.g + p.A.T @ line + p.C.T @ side)
        line, side = line + 0.05 * (p.A @ x - p.b), np.maximum(side + 0.05 * (p.C @ x - p.d), 0.0)
    np.testing.assert_allclose(got.x, x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.multipliers.equal["line"], line, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.multipliers.less[0], side, rtol=1e-9, atol=1e-12)
    assert got.rounds == 3
    assert not got.converged


@pytest.mark.parametrize("worth", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_units_of_the_objective_and_of_the_variables(worth, unit):
    """From a first step of 1 whatever they are; multipliers have the unit of the objective."""
    p = program(1)
    H, g = worth * p.H / unit**2, worth * p.g / unit
    scaled = Program(H, g, p.A / unit, p.b, p.C / unit, p.d)
    got, plain = ascend(scaled, 1.0), ascend(p, 1.0)
    assert got.converged
    np.testing.assert_allclose(got.x / unit, plain.x, atol=1e-4)
    np.testing.assert_allclose(got.multipliers.less[0] / worth, plain.multipliers.less[0], rtol=1e-2, atol=2e-2)


def test_it_need_not_be_convex_where_the_constraint_holds_it():
    """-x^2/2 + y^2/2 on the line x = 1: no minimum without the penalty."""
    p = program(0)
    H, A = np.diag([1.0, 1.0, 1.0, -1.0]), np.eye(n)[3:]
    p = Program(H, np.zeros(n), A, np.array([1.0]), p.C * 0.0, np.ones(bounds))
    got = ascend(p, 10.0)
    np.testing.assert_allclose(got.x, [0.0, 0.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(got.multipliers.equal["line"], [1.0], atol=1e-5)
    assert got.converged


def test_constraints_that_contradict_each_other_are_reported():
    """x_0 >= 1 and x_0 <= 0: it ends, with numbers, and says by how much."""
    p = program(0)
    C, d = np.zeros((bounds, n)), np.ones(bounds)
    C[0, 0], d[0], C[1, 0], d[1] = -1.0, -1.0, 1.0, 0.0
    got = ascend(p._replace(C=C, d=d, A=0.0 * p.A, b=0.0 * p.b), 1.0)
    assert not got.converged
    assert float(got.violation) == pytest.approx(0.5, abs=1e-3)
    assert got.rounds <= 40
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    impossible = ascend(p._replace(A=0.0 * p.A, b=np.array([2.0])), 1.0)
    assert not impossible.converged
    assert float(impossible.violation) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_residual_that_is_not_finite_moves_no_multiplier(bad):
    p = program(0)
    d = p.d.copy()
    d[2] = -bad
    got = ascend(p._replace(d=d), 1.0, lagrangian, Ascent(growth=1.0, rounds=5))
    assert not got.converged
    assert got.violation == np.inf
    assert got.multipliers.less[0][2] == 0.0
    assert np.isfinite(got.multipliers.less[0]).all()
    assert np.any(got.multipliers.less[0])
    assert np.isfinite(got.x).all()


def test_without_constraints_it_is_one_minimisation():
    got = dual_ascent(lambda x, multipliers, step: x + 3.0, lambda x: Residuals((), ()), np.ones(2), 1.0)
    np.testing.assert_array_equal(got.x, [4.0, 4.0])
    assert got.rounds == 1
    assert got.converged
    assert got.violation == 0.0


@jax.jit
def _added(p: Program, x, multipliers, step):
    add = lambda x: penalised(residuals(p, x), multipliers, step)
    found = residuals(p, x)
    return jax.value_and_grad(add)(x), climbed(multipliers, found, step), violation(found)


def test_the_slope_of_what_is_added_is_that_of_the_climbed_multipliers():
    """d/dx of the augmented part is A^T (l + rho C) + C^T max(0, m + rho D): the reason for the step rho."""
    p, rng = program(0), np.random.default_rng(0)
    for rho in (0.1, 7.0):
        x, line, side = rng.standard_normal(n), rng.standard_normal(equals), rng.exponential(1.0, bounds)
        (value, slope), after, off = _added(p, x, Residuals({"line": line}, (side,)), rho)
        c, d = p.A @ x - p.b, p.C @ x - p.d
        up = np.maximum(side + rho * d, 0.0)
        np.testing.assert_allclose(after.equal["line"], line + rho * c, rtol=1e-12)
        np.testing.assert_allclose(after.less[0], up, rtol=1e-12)
        np.testing.assert_allclose(slope, p.A.T @ (line + rho * c) + p.C.T @ up, rtol=1e-11, atol=1e-11)
        want = line @ c + 0.5 * rho * c @ c + np.sum(up**2 - side**2) / (2.0 * rho)
        assert float(value) == pytest.approx(want, rel=1e-11)
        assert float(off) == pytest.approx(max(np.abs(c).max(), d.max(), 0.0), rel=1e-12)
