"""Iterative LQR on problems that have something wrong with them: a status, numbers, and nothing that is not so."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import numpy as np
import pytest

import control_cases as cc
from degenerate import ODD, SCALED, SCALES, Odd
from forethought import ILQRStatus, ilqr

ALL: dict[str, Odd] = ODD | {
    f"{case}, {name}": ODD[case]._replace(**SCALES[name]) for case in SCALED for name in SCALES
}
MAY_BE_INFINITE = {"cost", "gradient_norm", "relative_gradient"}

together = jax.jit(jax.vmap(ilqr))
"""All of them in one call: what is NaN in one of them must not be in another."""


@functools.cache
def solved():
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(odd.arguments() for odd in ALL.values()))
    found = jax.tree.map(np.asarray, together(*stacked))
    return {name: jax.tree.map(lambda leaf, i=i: leaf[i], found) for i, name in enumerate(ALL)}


@pytest.mark.parametrize("name", ALL)
def test_it_ends_with_a_status_and_without_nan(name):
    got, odd = solved()[name], ALL[name]
    status = ILQRStatus(int(got.status))
    broken = status == ILQRStatus.NOT_FINITE or np.isnan(odd.x0).any()
    for field, value in got._asdict().items():
        assert not np.isnan(value).any(), field
        if not (field in MAY_BE_INFINITE and broken):
            assert np.isfinite(value).all(), field
        elif not np.isfinite(value).all():
            assert value == np.inf, field
    assert status in odd.named()
    assert 0 <= got.iterations <= 500
    *_, lo, hi = odd.arguments()
    if ILQRStatus.INFEASIBLE not in odd.named():
        assert (got.us >= lo).all()
        assert (got.us <= hi).all()
    assert got.violation == 0.0


@eqx.filter_jit
def judged(us, x0, *functions):
    """The cost of controls and its derivative dJ/du."""
    return jax.value_and_grad(cc.total_of)(us, x0, *functions)


@pytest.mark.parametrize("name", [name for name in ALL if "CONVERGED" in ALL[name].statuses])
def test_where_it_says_converged_the_gradient_is_small(name):
    """By JAX's derivative of the rolled-out cost, against what it was at the start; and the cost is no higher."""
    got, odd = solved()[name], ALL[name]
    *functions, x0, us, lo, hi = odd.arguments()
    first, before = (np.asarray(part) for part in judged(np.clip(us, lo, hi), x0, *functions))
    cost, whole = (np.asarray(part) for part in judged(got.us, x0, *functions))
    assert float(got.cost) == pytest.approx(float(cost), rel=1e-9, abs=1e-12 * odd.worth)
    assert got.cost <= first + 1e-12 * abs(first)
    if got.status == ILQRStatus.CONVERGED:
        left = np.abs(cc.inside(whole, got.us, lo, hi)).max()
        assert left <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("case", SCALED)
def test_units_do_not_matter(case, name):
    """Of cost, states and controls, from 1e-8 to 1e8 and beyond: the same iterations, and the same answer."""
    plain, scaled, odd = solved()[case], solved()[f"{case}, {name}"], ALL[f"{case}, {name}"]
    assert scaled.status == plain.status
    assert scaled.iterations == plain.iterations
    np.testing.assert_allclose(scaled.us / odd.push, plain.us, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(scaled.xs / odd.unit, plain.xs, rtol=1e-6, atol=1e-7)
    assert float(scaled.cost / odd.worth) == pytest.approx(float(plain.cost), rel=1e-9)


def test_a_linear_cost_within_limits_is_bang_bang():
    got, odd = solved()["a slope with limits"], ALL["a slope with limits"]
    *_, lo, _ = odd.arguments()
    np.testing.assert_array_equal(got.us, lo)


def test_on_a_hill_every_control_ends_at_a_limit():
    us = solved()["a hill with limits"].us
    np.testing.assert_array_equal(np.abs(us), 1.0)


def test_rest_is_found_exactly():
    """From x = 0 the optimum is to do nothing."""
    got = solved()["the way to rest"]
    np.testing.assert_allclose(got.us, 0.0, atol=1e-12)
    np.testing.assert_allclose(got.cost, 0.0, atol=1e-20)


def test_where_a_model_stops_being_finite_the_last_state_that_was_is_repeated():
    for name in ("beyond the wall", "exploding from the start", "a model of nothing"):
        got = solved()[name]
        assert got.cost == np.inf
        np.testing.assert_array_equal(got.xs[0], ALL[name].x0)
        assert np.isfinite(got.xs).all()
    np.testing.assert_array_equal(solved()["a model of nothing"].xs, np.tile(ALL["a model of nothing"].x0, (9, 1)))


def test_walls_are_not_crossed():
    for name in ("a wall", "a wall that is in the way", "a cliff"):
        got = solved()[name]
        assert np.isfinite(got.cost)
        assert np.abs(got.xs[:-1]).max() < 1.5
