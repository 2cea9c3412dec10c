"""Policies that v2.0 improves."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.math.belief import Belief
from forethought.policies.actor import ActorPolicy, init_actor, need_moments, placed
from forethought.types import Box, Spec, UserError

SPEC = Spec(n=3, m=2, angles=(1,))
LIMITS = Box(np.array([-1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32))
FORMS = ("network", "rbf", "linear")


def made(form, seed=0):
    states = np.random.default_rng(seed).normal(size=(40, 3)) * [1.0, 2.0, 5.0] + [0.0, 0.0, 10.0]
    actor = init_actor(SPEC, LIMITS, form, (8, 1), jr.key(seed))
    return placed(actor, states, jr.key(seed + 1)), states


@pytest.mark.parametrize("form", FORMS)
def test_actions_stay_within_the_limits_and_reach_them(form) -> None:
    actor, states = made(form)
    larger = eqx.tree_at(lambda a: a.body, actor, jax.tree.map(lambda v: 3.0 * v, actor.body))
    us = np.asarray(jax.vmap(larger)(jnp.asarray(states, jnp.float32)))
    assert (us >= np.asarray(LIMITS.low) - 1e-5).all()
    assert (us <= np.asarray(LIMITS.high) + 1e-5).all()
    assert us.std(axis=0).min() > 1e-3
    policy = ActorPolicy(actor, jnp.full((), 0.5, jnp.float32))
    x = jnp.asarray([jnp.nan, 1.0, jnp.inf])
    u, _ = policy.act(jr.key(0), x, jnp.zeros((), jnp.int32))
    assert np.isfinite(np.asarray(u)).all()
    assert u.dtype == jnp.float32


@pytest.mark.parametrize("form", FORMS)
def test_a_turn_of_an_angle_makes_no_difference(form) -> None:
    actor, _ = made(form)
    x = jnp.asarray([0.3, 1.0, 9.0], jnp.float32)
    np.testing.assert_allclose(actor(x), actor(x.at[1].add(2.0 * jnp.pi)), rtol=1e-4)


@pytest.mark.parametrize("form", ["rbf", "linear"])
def test_moments_are_those_of_samples(form) -> None:
    actor, _ = made(form, 3)
    root = jnp.asarray([[0.3, 0.0, 0.0], [0.1, 0.2, 0.0], [0.5, -0.3, 0.8]])
    belief = Belief(jnp.asarray([0.2, -0.4, 9.0]), root @ root.T)
    told = actor.moments(belief, jnp.zeros((), jnp.int32))
    x = belief.mean + jr.normal(jr.key(0), (200_000, 3), jnp.float64) @ root.T
    us = jax.vmap(lambda x: actor(x).astype(jnp.float64))(x)
    np.testing.assert_allclose(told.mean, us.mean(axis=0), atol=4.0 * float(us.std(axis=0).max()) / 200_000**0.5 + 2e-3)
    np.testing.assert_allclose(told.cov, np.cov(us.T), rtol=0.05, atol=2e-4)
    cross = np.cov(us.T, x.T)[:2, 2:]
    np.testing.assert_allclose(told.slope @ belief.cov, cross, rtol=0.05, atol=4e-3)
    # With no spread they are the action.
    still = actor.moments(Belief(belief.mean, jnp.zeros((3, 3))), jnp.zeros((), jnp.int32))
    np.testing.assert_allclose(still.mean, actor(belief.mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(still.cov, 0.0, atol=1e-12)


def test_saturation_is_where_a_change_has_no_effect() -> None:
    for form in FORMS:
        actor, _ = made(form)
        for raw in (0.0, 0.5, 1.5, 2.5, 4.0):
            slope = float(jax.grad(lambda v, a=actor: a.squashed(jnp.full((2,), v))[1])(raw))  # its half range is 1
            assert float(actor.saturation(jnp.full((2,), raw))[1]) == float(abs(slope) < 0.05), (form, raw)


def test_a_network_has_no_moments() -> None:
    with pytest.raises(UserError, match="no closed form"):
        need_moments(made("network")[0])
