"""One improvement of a local controller from rollouts that say little, or nothing, or too much."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.local_improve import Carried, How, Rollouts, Setting, improve
from forethought.costs.quadratic import Quadratic
from forethought.math.kl_dual import KLStatus
from forethought.math.linear_quadratic import LinearGaussianPolicy
from forethought.models.linear import LinearLearner
from forethought.types import Spec

n, m, T, N = 2, 1, 6, 3
MODEL = LinearLearner().init(Spec(n=n, m=m), jr.key(0)).model
COST = Quadratic(np.zeros(n), np.ones(n), np.ones(m))


def system(amplify=1.0):
    """x+ = a (x + 0.1 (v, u)), with a little noise: x [1, N, T+1, n] and u [1, N, T, m]."""

    def made(steps=T, seed=0):
        rng = np.random.default_rng(seed)
        x, u = np.zeros((1, N, steps + 1, n)), 0.3 * rng.standard_normal((1, N, steps, m))
        x[:, :, 0] = [1.0, 0.0] + 0.01 * rng.standard_normal((N, n))
        for t in range(steps):
            push = np.stack([x[:, :, t, 1], u[:, :, t, 0]], axis=-1)
            x[:, :, t + 1] = amplify * (x[:, :, t] + 0.1 * push) + 1e-3 * rng.standard_normal((1, N, n))
        return x, u

    return made


def data(steps=T, amplify=1.0):
    """Rollouts and the controller they are of: everything as it should be."""
    x, u = system(amplify)(steps)
    shape = (1, steps)
    old = {"K": np.zeros((*shape, m, n)), "k": np.zeros((*shape, m)), "L": np.full((*shape, m, m), 0.3)}
    cost = 0.5 * np.sum(x[:, :, 1:] ** 2, axis=(2, 3))
    return {"x": x, "u": u, "weight": np.ones((1, N, steps)), "cost": cost} | old


def put(name, index, value):
    """A change of one array."""

    def change(given):
        given[name][index] = value

    return change


def scaled(factor):
    def change(given):
        for name in ("x", "u", "L"):
            given[name] *= factor
        given["cost"] *= factor**2

    return change


def alike(given):
    given["x"][0, 1:], given["u"][0, 1:] = given["x"][0, :1], given["u"][0, :1]


def still(given):
    given["x"][:], given["u"][:] = 1.0, 0.0


KINDS = {
    "as it should be": lambda given: None,
    "identical rollouts": alike,
    "nothing ever moves": still,
    "one rollout": put("weight", (0, slice(1, None)), 0.0),
    "no rollout": put("weight", (0, slice(None)), 0.0),
    "all ended early": put("weight", (0, slice(None), slice(2, None)), 0.0),
    "a NaN rollout": put("x", (0, 1), np.nan),
    "a NaN state": put("x", (0, 1, 3), np.nan),
    "an infinite control": put("u", (0, 2, 0), np.inf),
    "every rollout NaN": put("x", (0, slice(None)), np.nan),
    "a NaN cost": put("cost", (0, 0), np.nan),
    "an infinite cost": put("cost", (0, 0), np.inf),
    "tiny units": scaled(1e-8),
    "huge units": scaled(1e8),
    "controls without noise": put("u", (0, slice(None)), 0.5),
    "an old policy with hardly any noise": put("L", slice(None), 1e-12),
    "an old policy without noise": put("L", slice(None), 0.0),
    "an old policy with NaN gains": put("K", (0, 2), np.nan),
    "an old policy with huge gains": put("K", slice(None), 1e6),
    "a state that never varies": put("x", (0, slice(None), slice(None), 1), 0.0),
}


def improved(given, how, carried=None, cost=COST):
    rollouts = Rollouts(*(jnp.asarray(given[name]) for name in ("x", "u", "weight", "cost")))
    old = LinearGaussianPolicy(*(jnp.asarray(given[name]) for name in ("K", "k", "L")))
    unknown = jnp.full((1,), jnp.nan)
    carried = Carried(jnp.ones((1,)), unknown, unknown, unknown, unknown) if carried is None else carried
    return improve(rollouts, old, carried, Setting(MODEL, cost, jnp.ones((m,))), how), old


def require_feasible(found, old, how):
    """A policy within the bound, or the old one with a status that says so; never a number that is not finite where
    the old one's are."""
    step, status = found.step, int(found.step.status[0])
    if status == KLStatus.FAILED:
        for a, b in zip(step.policy, old, strict=True):
            np.testing.assert_array_equal(a, b)
        return
    assert all(np.isfinite(np.asarray(part)).all() for part in step.policy)
    assert np.isfinite(float(step.cost[0]))
    epsilon, kl = float(found.epsilon[0]), np.asarray(step.kl[0])
    if how.bound == "sum":
        assert kl.sum() <= 1.1 * epsilon
    if how.bound == "each":
        assert (kl <= 1.1 * epsilon / kl.shape[0]).all()


as_asked = functools.partial(How, kl=0.5, strength=1.0, angles=(), floor=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fit", "bound", "dynamics"),
    [
        ("bayesian", "sum", "local"),
        ("bayesian", "each", "local"),
        ("regression", "sum", "local"),
        ("regression", "none", "local"),
        ("bayesian", "sum", "global"),
    ],
)
def test_whatever_the_rollouts_are(fit, bound, dynamics, kind):
    given, how = data(), as_asked(fit=fit, bound=bound, dynamics=dynamics)
    KINDS[kind](given)
    found, old = improved(given, how)
    require_feasible(found, old, how)
    if kind in ("as it should be", "a NaN rollout") and bound != "none":
        assert int(found.step.status[0]) == KLStatus.SOLVED


@pytest.mark.parametrize("before", [np.nan, -np.inf, np.inf, 0.0, 1e300])
@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e300, np.nan, np.inf])
def test_whatever_was_carried(before, scale):
    how = as_asked(fit="bayesian", bound="sum", dynamics="local")
    carried = Carried(*(jnp.asarray([v]) for v in (scale, before, before, before, before)))
    found, old = improved(data(), how, carried)
    require_feasible(found, old, how)


@pytest.mark.parametrize("kl", [1e-12, pytest.param(1e-3, marks=pytest.mark.slow), 1e6])
def test_bounds_from_tiny_to_huge(kl):
    how = as_asked(fit="bayesian", bound="sum", dynamics="local", kl=kl)
    found, old = improved(data(), how)
    require_feasible(found, old, how)
    assert int(found.step.status[0]) != KLStatus.FAILED


def test_a_single_step():
    how = as_asked(fit="bayesian", bound="sum", dynamics="local")
    found, old = improved(data(steps=1), how)
    require_feasible(found, old, how)
    assert int(found.step.status[0]) == KLStatus.SOLVED


def test_an_unstable_system_over_500_steps():
    """A spectral radius of 1.5: states of 1e88 at the end, whose squares are no numbers."""
    how = as_asked(fit="regression", bound="sum", dynamics="local")
    found, old = improved(data(steps=500, amplify=1.5), how)
    require_feasible(found, old, how)


def test_a_cost_that_is_concave_everywhere():
    how = as_asked(fit="bayesian", bound="sum", dynamics="local")
    concave = Quadratic(np.zeros(n), -np.ones(n), -np.ones(m))
    found, old = improved(data(), how, cost=concave)
    require_feasible(found, old, how)
    assert int(found.step.status[0]) != KLStatus.FAILED
    assert float(found.step.cost[0]) < float(found.cost[0])
    assert jax.tree.structure(found.policy) == jax.tree.structure(old)
