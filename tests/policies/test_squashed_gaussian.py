"""The squashed Gaussian: its density against scipy's, and how it acts."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import integrate, stats

from forethought.policies.squashed_gaussian import (
    HIGHEST,
    LOWEST,
    Head,
    SquashedPolicy,
    head,
    init_squashed,
    log_prob,
    squash,
)
from forethought.types import Box, Spec

SPEC = Spec(n=2, m=2, angles=(0,))
BOX = Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))


def at(mean, std):
    return Head(jnp.asarray(mean, jnp.float32), jnp.log(jnp.asarray(std, jnp.float32)))


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.5), (-1.0, 0.2), (0.0, 1.5)])
def test_the_density_is_that_of_a_squashed_normal(mean, std):
    """By change of variables, and it integrates to one."""
    said = jax.jit(lambda z: jnp.exp(log_prob(at([mean], [std]), z[None])))
    wanted = lambda z: stats.norm.pdf(np.arctanh(z), mean, std) / (1.0 - z**2)
    z = np.linspace(-0.95, 0.95, 21)
    np.testing.assert_allclose([said(jnp.float32(v)) for v in z], wanted(z), rtol=2e-4, atol=1e-6)
    grid = np.tanh(np.linspace(-6.0, 6.0, 2001))
    density = np.asarray(jax.vmap(said)(jnp.asarray(grid, jnp.float32)))
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=3e-3)


def test_a_draw_says_its_own_density():
    where, noise = at([0.4, -0.7], [0.3, 0.9]), jr.normal(jr.key(0), (200, 2), jnp.float32)
    z, said = jax.jit(jax.vmap(lambda e: squash(where, e)))(noise)
    np.testing.assert_allclose(said, jax.jit(jax.vmap(lambda v: log_prob(where, v)))(z), atol=2e-3)
    a = np.asarray(where.mean) + np.exp(np.asarray(where.log_std)) * np.asarray(noise, np.float64)
    wanted = stats.norm.logpdf(noise).sum(1) - np.asarray(where.log_std).sum() - np.log(1.0 - np.tanh(a) ** 2).sum(1)
    np.testing.assert_allclose(said, wanted, atol=1e-4)


def test_far_out_it_is_finite_and_so_is_its_slope():
    for mean in (-50.0, 50.0):
        value, slope = jax.value_and_grad(lambda m: squash(Head(m, jnp.zeros((1,))), jnp.zeros((1,)))[1])(
            jnp.full((1,), mean)
        )
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    assert np.isfinite(log_prob(at([0.0], [0.1]), jnp.ones((1,), jnp.float32)))


@pytest.fixture(scope="module")
def network():
    return init_squashed(SPEC, 8, 1, jr.key(0))


def test_it_acts_within_the_limits_and_its_mean_is_the_heads(network):
    x = np.array([0.3, -2.0])
    acting = lambda noise: SquashedPolicy(network, jnp.float32(noise), BOX, SPEC)
    z = np.tanh(head(network, SPEC, jnp.asarray(x, jnp.float32)).mean)
    u, _ = acting(0.0).act(jr.key(1), jnp.asarray(x), jnp.int32(0))
    np.testing.assert_allclose(u, [1.0 + 2.0 * z[0], 0.25 + 0.25 * z[1]], rtol=1e-6)
    assert u.dtype == jnp.float32
    noisy = acting(1.0)
    carry = noisy.init(jnp.asarray(x), jr.key(2))
    drawn, act = [], eqx.filter_jit(SquashedPolicy.act)
    for t in range(20):
        u, carry = act(noisy, carry, jnp.asarray(x), jnp.int32(t))
        drawn.append(np.asarray(u))
    assert np.all((drawn >= BOX.low) & (drawn <= BOX.high))
    assert np.ptp(drawn, axis=0).min() > 0.0


def test_a_whole_turn_is_no_difference_and_what_is_not_seen_is_not_acted_upon(network):
    policy = SquashedPolicy(network, jnp.float32(0.0), BOX, SPEC)
    act = eqx.filter_jit(lambda x: policy.act(jr.key(0), x, jnp.int32(0))[0])
    np.testing.assert_allclose(act(np.array([0.5, 1.0])), act(np.array([0.5 + 2 * np.pi, 1.0])), atol=1e-5)
    assert np.isfinite(act(np.array([np.nan, np.inf]))).all()


def test_the_spread_stays_between_its_limits(network):
    layers = (
        *network.layers[:-1],
        type(network.layers[-1])(100.0 * network.layers[-1].weight, network.layers[-1].bias),
    )
    stds = [head(network._replace(layers=layers), SPEC, jnp.asarray(x, jnp.float32)).log_std for x in np.eye(2) * 9]
    assert np.all((np.asarray(stds) >= LOWEST) & (np.asarray(stds) <= HIGHEST))
