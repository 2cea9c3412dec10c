"""The KL-bounded step around iterative LQR: exact where dynamics are linear, and never outside the bound elsewhere."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.math.kl_dual import KLStatus
from forethought.math.kl_ilqr import Around, kl_ilqr
from forethought.math.kl_step import Start
from forethought.math.linear_quadratic import LinearDynamics, LinearGaussianPolicy, QuadraticCost
from kl_cases import kl_case
from kl_parts import USUAL, number, parts, quick, whole

T, DT = 15, 0.1


def linear_follow(dynamics, m0, policy):
    """The mean path, by hand."""

    def step(x, at):
        F, f, K, k = at
        u = K @ x + k
        return F @ jnp.concatenate([x, u]) + f, (x, u)

    last, (xs, us) = jax.lax.scan(step, m0, (dynamics.F, dynamics.f, policy.K, policy.k))
    return jnp.concatenate([xs, last[None]]), us


@quick
def on_linear(given, epsilon):
    dynamics, cost, start, old = given
    along = lambda xs, us: Around(dynamics, cost)
    return kl_ilqr(along, functools.partial(linear_follow, dynamics, start.m0), start, old, epsilon)


@pytest.mark.parametrize("lift", [0.0, -0.6], ids=["convex", "indefinite"])
def test_with_linear_dynamics_it_is_the_step_itself(lift):
    given = parts(kl_case(seed=3, lift=lift))
    got, exact = on_linear(given, number(0.5)), whole(given, 0.5, how=USUAL)
    assert int(got.status) == KLStatus.SOLVED
    np.testing.assert_allclose(got.cost, exact.cost, rtol=1e-2, atol=1e-2 * abs(float(exact.cost)))
    assert float(got.kl.sum()) <= 1.1 * 0.5
    # The first round's step, to rounding; later ones only search on within the same tolerance.
    assert float(got.cost) <= float(exact.cost) + 1e-9


def pendulum(x, u):
    return jnp.stack([x[0] + DT * x[1], x[1] + DT * (10.0 * jnp.sin(x[0]) + 3.0 * u[0])])


def along(xs, us):
    """The pendulum's tangents, and a cost that is quadratic anyway."""
    A, B = jax.vmap(jax.jacfwd(pendulum, argnums=(0, 1)))(xs[:-1], us)
    F = jnp.concatenate([A, B], axis=2)
    mean = jax.vmap(pendulum)(xs[:-1], us)
    z = jnp.concatenate([xs[:-1], us], axis=1)
    W = jnp.tile(1e-6 * jnp.eye(2), (T, 1, 1))
    C = jnp.tile(jnp.diag(jnp.array([1.0, 0.1, 0.01])), (T, 1, 1))
    cost = QuadraticCost(C, jnp.zeros((T, 3)), jnp.zeros(T), 5.0 * jnp.eye(2), jnp.zeros(2), jnp.zeros(()))
    return Around(LinearDynamics(F, mean - jnp.einsum("tij,tj->ti", F, z), W), cost)


def lead(x0, policy):
    def step(x, at):
        K, k = at
        u = K @ x + k
        return pendulum(x, u), (x, u)

    last, (xs, us) = jax.lax.scan(step, x0, (policy.K, policy.k))
    return jnp.concatenate([xs, last[None]]), us


@functools.partial(quick, static_argnames="rounds")
def on_pendulum(old, epsilon, rounds):
    start = Start(jnp.array([2.0, 0.0]), 1e-4 * jnp.eye(2))
    return kl_ilqr(along, functools.partial(lead, start.m0), start, old, epsilon, rounds=rounds)


OLD = LinearGaussianPolicy(jnp.zeros((T, 1, 2)), jnp.zeros((T, 1)), jnp.ones((T, 1, 1)))


def mean_cost(policy):
    """Of the policy's mean on the true pendulum, in NumPy."""
    x, total = np.array([2.0, 0.0]), 0.0
    for K, k in zip(np.asarray(policy.K), np.asarray(policy.k), strict=True):
        u = K @ x + k
        total += 0.5 * (x[0] ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2)
        x = np.array([x[0] + DT * x[1], x[1] + DT * (10.0 * np.sin(x[0]) + 3.0 * u[0])])
    return total + 2.5 * x @ x


@pytest.mark.parametrize("epsilon", [0.1, 3.0, 30.0])
def test_on_a_pendulum_the_true_cost_falls_within_the_bound(epsilon):
    found = on_pendulum(OLD, number(epsilon), 6)
    assert int(found.status) in (KLStatus.SOLVED, KLStatus.INACTIVE)
    assert float(found.kl.sum()) <= 1.1 * epsilon
    assert mean_cost(found.policy) < mean_cost(OLD)


def test_more_rounds_are_no_worse_and_a_larger_bound_is_better():
    costs = [mean_cost(on_pendulum(OLD, number(3.0), rounds).policy) for rounds in (1, 6)]
    assert costs[1] <= costs[0] * 1.001
    wide = mean_cost(on_pendulum(OLD, number(30.0), 6).policy)
    assert wide < costs[1]


def test_what_is_not_finite_ends_with_the_old_policy():
    spoiled = OLD._replace(k=OLD.k.at[3].set(jnp.nan))
    found = on_pendulum(spoiled, number(1.0), 6)
    assert int(found.status) == KLStatus.FAILED
    found = on_pendulum(OLD, number(jnp.nan), 6)
    assert int(found.status) == KLStatus.FAILED
    np.testing.assert_array_equal(found.policy.k, OLD.k)
