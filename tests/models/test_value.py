"""The value network: what it learns, that a refit begins where the last one ended, and what it refuses."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.costs.quadratic import Quadratic
from forethought.costs.terminal import TerminalValue
from forethought.math.scaling import Scaler
from forethought.models.value import ValueLearner, rescaled
from forethought.types import Spec

SPEC, B = Spec(n=2, m=1, angles=(0,)), 256
HOW = ValueLearner(width=24, depth=1, gradient_steps=800, batch=64, learning_rate=3e-3)
rng = np.random.default_rng(1)
X = np.stack([rng.uniform(-3.0, 3.0, B), rng.uniform(-1.0, 1.0, B)], axis=1)
USE = np.ones(B, bool)


def true_value(x):
    return 500.0 + 100.0 * (1.0 - np.cos(x[:, 0])) + 50.0 * x[:, 1] ** 2


@pytest.fixture(scope="module")
def fitted():
    return HOW.init(SPEC, jr.key(0))


@pytest.fixture(scope="module")
def trained(fitted):
    return HOW.fit(fitted, X, true_value(X), USE, jr.key(1))


def said(fitted, x=X):
    return np.asarray(jax.vmap(fitted.value)(jnp.asarray(x)))


def shapes(tree):
    return [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in jax.tree.leaves(tree)]


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def test_it_learns_a_cost_to_go_in_its_own_units(trained):
    after, told = trained
    off = said(after) - true_value(X)
    assert np.sqrt(np.mean(off**2)) < 0.1 * true_value(X).std()
    assert float(told["explained"]) == pytest.approx(1.0 - off.var() / true_value(X).var(), abs=1e-3)
    assert not bool(told["failed"])


def test_a_whole_turn_is_no_difference(trained):
    np.testing.assert_allclose(said(trained[0]), said(trained[0], X + np.array([2.0 * np.pi, 0.0])), rtol=1e-4)


def test_its_state_has_one_shape_and_one_program(fitted, trained):
    assert shapes(fitted) == shapes(trained[0])
    assert all(v.dtype in (jnp.float32, jnp.int32) for v in jax.tree.leaves(fitted))
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    after, _ = HOW.fit(trained[0], X, true_value(X), USE, jr.key(2))
    assert shapes(fitted) == shapes(after)
    HOW.fit(after, X[:9], true_value(X)[:9], USE[:9], jr.key(2))
    count = len(compiled)
    assert count >= 1, "other shapes: the listener hears of it"
    HOW.fit(after, X[:9], true_value(X)[:9], USE[:9], jr.key(3))
    assert len(compiled) == count


def test_other_scalers_leave_the_function_alone(trained):
    value = trained[0].value
    other = lambda k, s: Scaler(jnp.full((k,), 0.3 * s, jnp.float32), jnp.full((k,), 2.0 * s, jnp.float32))
    moved = rescaled(value, other(3, 1.0), other(1, 70.0))
    np.testing.assert_allclose(said(trained[0]), np.asarray(jax.vmap(moved)(jnp.asarray(X))), rtol=1e-4)


def test_rows_that_are_not_in_use_or_not_finite_do_not_count(fitted):
    half, target = np.arange(B) < B // 2, true_value(X)
    clean, _ = HOW.fit(fitted, X, target, half, jr.key(1))
    wrong = np.where(half, target, -1e9)
    other, _ = HOW.fit(fitted, X, wrong, half, jr.key(1))
    assert same(clean, other)
    wrong[B // 2 :], x = np.nan, X.copy()
    x[B // 2 :: 2] = np.inf
    other, told = HOW.fit(fitted, x, wrong, USE, jr.key(1))
    assert same(clean, other)
    assert not bool(told["failed"])


@pytest.mark.parametrize("why", ["no rows", "diverges"])
def test_a_fit_that_fails_is_not_taken(trained, why):
    before, target, use = trained[0], true_value(X), USE
    if why == "no rows":
        use = np.zeros(B, bool)
    else:
        before = eqx.tree_at(lambda f: f.value.layers[0].bias, before, jnp.full((24,), jnp.nan, jnp.float32))
    after, told = HOW.fit(before, X, target, use, jr.key(3))
    assert bool(told["failed"])
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True)
    )


def test_it_closes_the_horizon_of_a_cost(trained):
    cost = TerminalValue(Quadratic(np.zeros(2), np.ones(2), np.ones(1)), trained[0].value)
    found = cost.terminal(jnp.asarray(X[0], jnp.float32))
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(said(trained[0])[0], rel=1e-6)
