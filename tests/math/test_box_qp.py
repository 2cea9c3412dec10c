"""Quadratic programs with limits against their own optimality conditions, closed forms and all active sets."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np
import pytest

from forethought.math.box_qp import box_qp, reduced

TOLERANCE = 1e-14
COUNT = 60
"""Problems of each size."""
SIZES = [1, 2, 3, 4, 5, 6]


class Program(NamedTuple):
    """Arguments of `box_qp`, one row per problem."""

    hessian: np.ndarray
    gradient: np.ndarray
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray


@jax.jit
def _solve(p: Program):
    return jax.lax.map(lambda p: box_qp(p.hessian, p.gradient, (p.low, p.high), p.start, TOLERANCE), p)


def solve(p: Program):
    return jax.tree.map(np.asarray, _solve(p))


def programs(m: int, seed=0, spread=1.0) -> Program:
    """Random convex ones: a fifth of the limits infinite, a tenth equal, most starts outside."""
    rng = np.random.default_rng(100 * m + seed)
    root = rng.standard_normal((COUNT, m, m)) * np.exp(spread * rng.standard_normal((COUNT, m, 1)))
    hessian = root @ np.swapaxes(root, 1, 2) + 1e-3 * np.eye(m)
    centre, width = rng.standard_normal((COUNT, m)), rng.exponential(1.0, (COUNT, m))
    width[rng.random((COUNT, m)) < 0.1] = 0.0
    low, high = centre - width, centre + width
    low[(rng.random((COUNT, m)) < 0.2) & (width > 0.0)] = -np.inf
    high[(rng.random((COUNT, m)) < 0.2) & (width > 0.0)] = np.inf
    gradient = 3.0 * np.einsum("bij,bj->bi", hessian, rng.standard_normal((COUNT, m)))
    return Program(hessian, gradient, low, high, 5.0 * rng.standard_normal((COUNT, m)))


@functools.cache
def solved(m: int):
    p = programs(m)
    return p, solve(p)


def off(p: Program, x: np.ndarray) -> np.ndarray:
    """How far each x [B, m] is from the conditions of optimality, relative to the terms of the gradient: what points
    inside at a limit, all of it elsewhere."""
    products = p.hessian * x[:, None, :]
    slope = p.gradient + products.sum(2)
    size = np.abs(p.gradient) + np.abs(products).sum(2)
    inside = np.where(x <= p.low, np.minimum(slope, 0.0), slope)
    inside = np.where(x >= p.high, np.where(x <= p.low, 0.0, np.maximum(inside, 0.0)), inside)
    return np.max(np.abs(inside) / size, axis=1)


def by_enumeration(hessian, gradient, low, high) -> np.ndarray:
    """The best of what every choice of active limits leads to."""
    best, found = np.inf, None
    for choice in itertools.product((0, 1, 2), repeat=len(gradient)):
        side = np.array(choice)
        x = np.where(side == 1, low, np.where(side == 2, high, 0.0))
        free = side == 0
        if not np.isfinite(x).all():
            continue
        x[free] = np.linalg.solve(hessian[np.ix_(free, free)], -(gradient + hessian @ x)[free])
        value = 0.5 * x @ hessian @ x + gradient @ x
        if value < best and (x >= low - 1e-12).all() and (x <= high + 1e-12).all():
            best, found = value, x
    assert found is not None
    return found


@pytest.mark.parametrize("m", SIZES)
def test_the_conditions_of_optimality_hold_on_random_problems(m):
    p, got = solved(m)
    assert got.definite.all()
    assert (got.x >= p.low).all()
    assert (got.x <= p.high).all()
    assert off(p, got.x).max() < 1e-8
    held = (got.x == p.low) | (got.x == p.high)
    assert 0.2 < held.mean() < 0.8  # else this would say nothing about limits, or about what is free


@pytest.mark.parametrize("m", SIZES)
def test_what_is_not_free_is_exactly_at_a_limit_and_only_that(m):
    p, got = solved(m)
    at_limit = (got.x == p.low) | (got.x == p.high)
    np.testing.assert_array_equal(got.free, ~at_limit)
    assert (~got.free[p.low == p.high]).all()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_no_choice_of_active_limits_is_better(m):
    p, got = solved(m)
    for i in range(COUNT):
        best = by_enumeration(*(a[i] for a in p[:4]))
        np.testing.assert_allclose(got.x[i], best, rtol=1e-7, atol=1e-9)


def test_one_variable_is_the_minimum_clipped():
    p, got = solved(1)
    np.testing.assert_array_equal(got.x, np.clip(-p.gradient / p.hessian[:, 0], p.low, p.high))
    assert (got.rounds == 1).all()


@pytest.mark.parametrize("m", SIZES)
def test_a_few_rounds_are_enough(m):
    rounds = solved(m)[1].rounds
    assert np.median(rounds) <= 5
    assert rounds.max() <= 30


@pytest.mark.parametrize("m", [2, 5])
def test_a_start_at_the_solution_stays_there(m):
    p, got = solved(m)
    again = solve(p._replace(start=got.x))
    np.testing.assert_allclose(again.x, got.x, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(again.free, got.free)
    assert again.rounds.max() <= 3
    assert np.median(again.rounds) == 1


@pytest.mark.parametrize("m", [1, 3, 6])
def test_without_limits_it_is_one_newton_step(m):
    p = programs(m)
    p = p._replace(low=np.full_like(p.low, -np.inf), high=np.full_like(p.high, np.inf))
    got = solve(p)
    want = np.linalg.solve(p.hessian, -p.gradient[:, :, None])[:, :, 0]
    np.testing.assert_allclose(got.x, want, rtol=1e-8, atol=1e-10)
    assert got.free.all()
    assert np.median(got.rounds) <= 2


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("m", [1, 3, 6])
def test_the_unit_of_the_objective_does_not_matter(m, scale):
    p, plain = solved(m)
    got = solve(p._replace(hessian=scale * p.hessian, gradient=scale * p.gradient))
    assert got.definite.all()
    np.testing.assert_array_equal(got.free, plain.free)
    np.testing.assert_allclose(got.x, plain.x, rtol=1e-8, atol=1e-10)
    assert abs(int(got.rounds.sum()) - int(plain.rounds.sum())) <= COUNT // 10


@pytest.mark.parametrize("m", [1, 3, 6])
def test_the_units_of_the_variables_do_not_matter(m):
    """From 1e-8 to 1e8 in one problem."""
    p, plain = solved(m)
    unit = np.logspace(-8, 8, m) if m > 1 else np.array([1e8])
    parts = (p.hessian / unit[:, None] / unit, p.gradient / unit, p.low * unit, p.high * unit, p.start * unit)
    got = solve(Program(*parts))
    assert got.definite.all()
    np.testing.assert_array_equal(got.free, plain.free)
    np.testing.assert_allclose(got.x / unit, plain.x, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("m", [2, 4, 6])
def test_ill_conditioned_problems(m):
    """Conditions of up to 1e8 and beyond: still optimal, relative to the terms of the gradient."""
    p = programs(m, seed=1, spread=4.0)
    assert np.median(np.linalg.cond(p.hessian)) > 1e2
    got = solve(p)
    assert off(p, got.x)[got.definite].max() < 1e-7
    assert got.definite.mean() > 0.9


@pytest.mark.parametrize("m", SIZES)
def test_an_indefinite_problem_is_not_definite(m):
    p = programs(m)
    wide = Program(p.hessian.copy(), p.gradient, np.full_like(p.low, -9.0), np.full_like(p.high, 9.0), 0.0 * p.start)
    values, vectors = np.linalg.eigh(wide.hessian)
    values[:, 0] = -values[:, 0]
    got = solve(wide._replace(hessian=(vectors * values[:, None]) @ np.swapaxes(vectors, 1, 2)))
    assert not got.definite.any()
    assert np.isfinite(got.x).all()
    assert (np.abs(got.x) <= 9.0).all()
    singular = solve(wide._replace(hessian=np.zeros_like(wide.hessian)))
    assert not singular.definite.any()


@pytest.mark.parametrize("m", SIZES)
def test_what_limits_hold_may_be_indefinite(m):
    """Equal limits of one variable, or a start at the limit into which the gradient points."""
    p = programs(m)
    hessian, low, high = p.hessian.copy(), np.full_like(p.low, -9.0), np.full_like(p.high, 9.0)
    hessian[:, 0, 0] = -50.0
    low[:, 0] = high[:, 0] = 0.7
    got = solve(Program(hessian, p.gradient, low, high, p.start))
    assert got.definite.all()
    assert (got.x[:, 0] == 0.7).all()
    assert off(Program(hessian, p.gradient, low, high, p.start), got.x).max() < 1e-8
    if m > 1:  # one variable is a minimum or none: it has no start
        low[:, 0], hessian[:, 0, 1:], hessian[:, 1:, 0] = -9.0, 0.0, 0.0
        gradient, start = p.gradient.copy(), p.start.copy()
        gradient[:, 0], start[:, 0] = -1.0, 0.7
        held = solve(Program(hessian, gradient, low, high, start))
        assert held.definite.all()
        assert (held.x[:, 0] == 0.7).all()
        assert not held.free[:, 0].any()


def test_numbers_that_are_not_finite_are_not_definite():
    for m in (1, 3):
        p = programs(m)
        hessian = p.hessian.copy()
        hessian[::2, 0, 0] = np.nan
        got = solve(p._replace(hessian=hessian, low=p.low - 1.0, high=p.high + 1.0))
        assert not got.definite[::2].any()
        assert got.definite[1::2].all()


def test_reduced_is_the_hessian_of_what_is_free_beside_an_identity():
    hessian = np.arange(9.0).reshape(3, 3)
    got = reduced(hessian, np.array([True, False, True]))
    np.testing.assert_array_equal(got, [[0.0, 0.0, 2.0], [0.0, 1.0, 0.0], [6.0, 0.0, 8.0]])
