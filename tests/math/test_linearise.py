"""Slopes of every model against central differences: the error falls as h^2 until rounding takes over."""

from __future__ import annotations

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.math.dataset import append, empty
from forethought.math.linearise import linearise
from forethought.models.known import KnownDynamics
from forethought.types import Spec, Trajectory
from forethought.worlds.classic import Acrobot, CartPoleSwingUp

T0 = jnp.int32(0)
SPEC = Spec(3, 2, angles=(2,))
slopes = eqx.filter_jit(linearise)


def truth(x, u, theta=(0.8, 0.3)):
    """A smooth system of three states, the last an angle."""
    a, b = theta
    speed = a * x[1] + b * jnp.sin(x[2]) + 0.5 * u[0]
    return jnp.stack([x[0] + 0.1 * x[1] * jnp.cos(x[2]), speed, x[2] + 0.2 * speed + 0.1 * jnp.tanh(u[1])])


def data(spec: Spec, rows: int = 60):
    """Random transitions of it."""
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(rows, spec.n)), rng.uniform(-1.0, 1.0, (rows, spec.m))
    y = np.asarray(jax.jit(jax.vmap(truth))(x, u)) + 0.01 * rng.normal(size=(rows, spec.n))
    zero, no = np.zeros(rows), np.zeros(rows, bool)
    steps = np.arange(rows)
    # Noise on the reward, too: a Gaussian process of what is noiseless has weights of 1e5 that cancel.
    q = Trajectory(
        x, u, y, 0.1 * rng.normal(size=rows) - np.sum(x**2, axis=1), no, no, steps, zero, np.zeros(rows, np.int64)
    )
    return append(empty(spec, 64), q, 0)


def learner(path: str, *args, **kwargs):
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"forethought.models.{module}"), name)(*args, **kwargs)


LEARNERS = {
    "gp": lambda: learner("gp_learner:GPLearner", evaluations=20, restarts=1),
    "matern32": lambda: learner("gp_learner:GPLearner", kernel="matern32", evaluations=20, restarts=1),
    "gmm": lambda: learner("gmm:GMMLearner", components=4, starts=1, rounds=30),
    "linear": lambda: learner("linear:LinearLearner"),
    "mdn": lambda: learner("mdn:MDNLearner", width=16),
    "network": lambda: learner("plain:NetworkLearner", width=16),
    "ensemble": lambda: learner("ensemble:EnsembleLearner", width=16, members=2),
    "physics": lambda: learner("physics:PhysicsLearner", truth, (0.5, 0.5), rounds=20),
}
SINGLE = {"mdn", "network", "ensemble"}
"""Those in float32.  Random weights have slopes as good as any: they are not fitted here."""


def parts_of(model, x, u):
    """By automatic differentiation, and a function for differences."""
    got = slopes(model, x, u, T0)
    return got, eqx.filter_jit(lambda m, z: m.predict(z[: x.shape[0]], z[x.shape[0] :], T0).mean)


def errors(model, x, u, angles, steps):
    """Largest error of central differences with each step, relative to the largest slope."""
    got, mean = parts_of(model, x, u)
    exact = np.concatenate([got.a, got.b], axis=1).astype(np.float64)
    z, found = np.concatenate([x, u]), []
    for h in steps:
        columns = []
        for e in np.eye(len(z)):
            # The step that is really made, after rounding to the model's numbers.
            ahead, behind = (np.asarray(z + s * h * e, got.a.dtype) for s in (1.0, -1.0))
            change = np.asarray(mean(model, ahead), np.float64) - np.asarray(mean(model, behind), np.float64)
            turn = change[list(angles)]
            change[list(angles)] = np.arctan2(np.sin(turn), np.cos(turn))
            columns.append(change / np.sum(np.float64(ahead) - np.float64(behind)))
        found.append(np.max(np.abs(np.stack(columns, axis=1) - exact)))
    return np.array(found) / np.max(np.abs(exact)), got


def rounding(model, x, u, got):
    """How far the mean is from a straight line over 1e-9: its rounding error, relative to the largest slope."""
    slope = np.concatenate([got.a, got.b], axis=1)
    mean = eqx.filter_jit(lambda m, z: m.predict(z[: x.shape[0]], z[x.shape[0] :], T0).mean)
    z, rng = np.concatenate([x, u]), np.random.default_rng(0)
    near = 1e-9 * rng.normal(size=(10, len(z)))
    off = [np.asarray(mean(model, z + e)) - np.asarray(got.mean) - slope @ e for e in near]
    return max(np.max(np.abs(off)) / np.max(np.abs(slope)), 1e-16)


SLOW = {"matern32": pytest.mark.slow}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=SLOW.get(name, ())) for name in LEARNERS])
def fitted(request):
    """(name, model, spec) of each learner."""
    spec = SPEC if request.param == "physics" else Spec(3, 2, extras=2, angles=(2,))
    recipe = LEARNERS[request.param]()
    state = recipe.init(spec, jr.key(0))
    if request.param not in SINGLE:
        state = recipe.fit(state, data(spec), jr.key(1))[0]
    return request.param, state.model, spec


# One plain point; one where the angle is about to make a whole turn.
POINTS = [np.array([0.3, -0.5, 0.7]), np.array([0.1, 0.4, 3.0])]


@pytest.mark.parametrize("x", POINTS, ids=["plain", "border"])
def test_a_model_s_slopes_are_those_of_central_differences(fitted, x):
    name, model, spec = fitted
    u = np.array([0.2, -0.4])
    if name in SINGLE:
        steps = 10.0 ** np.arange(-0.5, -3.1, -0.5)
        found, got = errors(model, x, u, spec.angles, steps)
        assert got.a.dtype == jnp.float32
        assert np.min(found) < 2e-3
        return
    steps = 10.0 ** np.arange(-1.0, -7.1, -0.5)
    found, got = errors(model, x, u, spec.angles, steps)
    assert (got.a.shape, got.b.shape, got.mean.shape) == ((spec.outputs, 3), (spec.outputs, 2), (spec.outputs,))
    assert got.a.dtype == got.b.dtype == got.mean.dtype == jnp.float64
    # The best step balances h^2 against rounding / h.
    noise = rounding(model, x, u, got)
    assert noise < 1e-10
    assert np.min(found) < 10.0 * noise ** (2.0 / 3.0)
    # Where rounding is not in sight yet, ten times the accuracy for half the decimal: h^2.
    if name not in ("linear", "matern32"):
        seen = found[: np.argmax(found < 30.0 * noise ** (2.0 / 3.0))]
        assert len(seen) >= 3
        np.testing.assert_allclose(seen[-3:-1] / seen[-2:], 10.0, rtol=0.25)


@pytest.mark.parametrize("system", [Acrobot(), CartPoleSwingUp()], ids=["acrobot", "cart-pole"])
def test_known_dynamics_with_loops_inside(system):
    x, u = np.array([0.3, -0.5, 0.7, 0.2]), np.array([0.4])
    found, _ = errors(KnownDynamics(system), x, u, (), 10.0 ** np.arange(-1.0, -7.1, -0.5))
    assert np.min(found) < 1e-9
    np.testing.assert_allclose(found[1:4] / found[2:5], 10.0, rtol=0.25)


def test_the_linear_system_s_own_matrices_come_back():
    a, b = np.array([[1.0, 0.1], [0.0, 0.9]]), np.array([[0.0], [0.5]])
    got = linearise(KnownDynamics(lambda x, u: a @ x + b @ u), np.array([1.0, 2.0]), np.array([3.0]), T0)
    np.testing.assert_allclose(got.a, a, atol=1e-15)
    np.testing.assert_allclose(got.b, b, atol=1e-15)
    np.testing.assert_allclose(got.mean, a @ [1.0, 2.0] + b @ [3.0], atol=1e-15)


def test_single_precision_inputs_of_a_double_model_are_no_loss(fitted):
    name, model, _ = fitted
    x, u = np.array([0.25, -0.5, 0.75], np.float32), np.array([0.5, -0.25], np.float32)
    wide = slopes(model, x.astype(np.float64), u.astype(np.float64), T0)
    narrow = slopes(model, x, u, T0)
    assert narrow.a.dtype == wide.a.dtype == (jnp.float32 if name in SINGLE else jnp.float64)
    np.testing.assert_array_equal(narrow.a, wide.a)
    np.testing.assert_array_equal(narrow.b, wide.b)


def test_points_can_be_batched(fitted):
    _, model, spec = fitted
    xs, us = np.stack(POINTS), np.array([[0.1, 0.2], [-0.3, 0.4]])
    each = eqx.filter_jit(lambda model: jax.vmap(lambda x, u: linearise(model, x, u, T0))(xs, us))(model)
    assert each.a.shape == (2, spec.outputs, 3)
    for i in range(2):
        np.testing.assert_allclose(each.a[i], slopes(model, xs[i], us[i], T0).a, rtol=1e-4, atol=1e-5)


def test_the_slope_of_a_mixture_is_its_closed_form():
    recipe = LEARNERS["gmm"]()
    spec = Spec(3, 2, extras=2, angles=(2,))
    model = recipe.fit(recipe.init(spec, jr.key(0)), data(spec), jr.key(1))[0].model
    closed = importlib.import_module("forethought.models.gmm").jacobian(model, POINTS[0], np.array([0.2, -0.4]))
    got = slopes(model, POINTS[0], np.array([0.2, -0.4]), T0)
    np.testing.assert_allclose(got.a, closed[0], atol=1e-10)
    np.testing.assert_allclose(got.b, closed[1], atol=1e-10)
