"""Distributions over actions beside scipy's, and beside counting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import norm

from forethought.math.stochastic import Said, entropy, kl, log_prob, sample
from forethought.types import Box, Choices

BOX = Box(np.float32([-1.0, 0.0]), np.float32([1.0, 4.0]))
CHOICES = Choices(np.eye(3, dtype=np.float32))
OLD = Said(jnp.asarray([0.5, 3.0], jnp.float32), jnp.log(jnp.asarray([0.6, 2.0], jnp.float32)))
NEW = Said(jnp.asarray([0.2, 3.5], jnp.float32), jnp.log(jnp.asarray([0.9, 1.5], jnp.float32)))
LOGITS = Said(jnp.asarray([0.3, -1.0, 2.0], jnp.float32), jnp.zeros(0, jnp.float32))
OTHER = Said(jnp.asarray([1.3, 1.0, 1.0], jnp.float32), jnp.zeros(0, jnp.float32))
one = jnp.ones((), jnp.float32)
draws = jax.jit(lambda said, keys: jax.vmap(lambda k: sample(BOX, said, k, one))(keys))


def test_an_action_at_a_limit_has_the_probability_of_all_beyond():
    inside = float(log_prob(BOX, OLD, jnp.asarray([0.1, 1.0])))
    assert inside == pytest.approx(norm.logpdf(0.1, 0.5, 0.6) + norm.logpdf(1.0, 3.0, 2.0), abs=1e-5)
    corner = float(log_prob(BOX, OLD, jnp.asarray([1.0, 0.0])))
    assert corner == pytest.approx(norm.logsf(1.0, 0.5, 0.6) + norm.logcdf(0.0, 3.0, 2.0), abs=1e-5)


def test_the_likelihood_is_of_a_distribution():
    """Its mass, by quadrature inside and the two limits, is 1; and the draws are at the limits as often as it says."""
    box = Box(np.float32([-1.0]), np.float32([1.0]))
    said = Said(OLD.center[:1], OLD.log_std[:1])
    u = np.linspace(-1.0, 1.0, 4003)[1:-1].astype(np.float32)
    p = np.exp(jax.vmap(lambda v: log_prob(box, said, v[None]))(jnp.asarray(u)))
    low, high = (float(jnp.exp(log_prob(box, said, jnp.asarray([v])))) for v in (-1.0, 1.0))
    assert np.trapezoid(p, u) + low + high == pytest.approx(1.0, abs=1e-3)
    u = np.asarray(draws(OLD, jr.split(jr.key(0), 4000)))
    assert np.mean(u[:, 0] == 1.0) == pytest.approx(high, abs=0.02)
    assert np.mean(u[:, 0] == -1.0) == pytest.approx(low, abs=0.01)
    assert u.dtype == np.float32


def test_the_score_has_mean_zero():
    """E[grad log p] = 0 only if the likelihood is that of what is drawn: with the density alone it is not."""
    u = draws(OLD, jr.split(jr.key(1), 20000))
    scores = jax.vmap(jax.grad(lambda said, u: log_prob(BOX, said, u)), in_axes=(None, 0))(OLD, u)
    for part in scores:
        mean, error = np.mean(part, axis=0), np.std(part, axis=0) / np.sqrt(len(u))
        assert np.all(np.abs(mean) < 4.0 * error)
    naive = (np.asarray(u) - np.asarray(OLD.center)) / np.exp(OLD.log_std) ** 2
    assert np.any(np.abs(naive.mean(axis=0)) > 10.0 * naive.std(axis=0) / np.sqrt(len(u)))


def test_kl_of_gaussians_is_the_textbooks_and_that_of_clipped_ones_is_less():
    (m0, s0), (m1, s1) = ((np.asarray(v.center, float), np.exp(np.asarray(v.log_std, float))) for v in (OLD, NEW))
    wanted = np.sum(np.log(s1 / s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5)
    assert float(kl(BOX, OLD, NEW)) == pytest.approx(wanted, rel=1e-5)
    assert float(kl(BOX, OLD, OLD)) == 0.0
    u = draws(OLD, jr.split(jr.key(2), 20000))
    gap = jax.vmap(lambda u: log_prob(BOX, OLD, u) - log_prob(BOX, NEW, u))(u)
    assert 0.0 < np.mean(gap) < wanted
    near = Said(OLD.center + 1e-4, OLD.log_std + 1e-4)
    exact = np.sum(0.5 * (np.expm1(-2e-4) + 2e-4) + 0.5 * (1e-4 / np.exp(np.asarray(near.log_std, float))) ** 2)
    assert float(kl(BOX, OLD, near)) == pytest.approx(exact, rel=1e-2)


def test_choices():
    p, q = (np.exp(np.asarray(jax.nn.log_softmax(v.center), float)) for v in (LOGITS, OTHER))
    assert float(kl(CHOICES, LOGITS, OTHER)) == pytest.approx(rel_entr(p, q).sum(), rel=1e-5)
    assert float(entropy(CHOICES, LOGITS)) == pytest.approx(-np.sum(p * np.log(p)), rel=1e-5)
    for i, u in enumerate(np.eye(3, dtype=np.float32)):
        assert float(log_prob(CHOICES, LOGITS, jnp.asarray(u))) == pytest.approx(np.log(p[i]), abs=1e-5)
    u = np.asarray(jax.vmap(lambda k: sample(CHOICES, LOGITS, k, one))(jr.split(jr.key(3), 8000)))
    np.testing.assert_allclose(u.mean(axis=0), p, atol=0.02)
    np.testing.assert_array_equal(sample(CHOICES, LOGITS, jr.key(0), 0.0 * one), [0.0, 0.0, 1.0])


def test_the_entropy_of_a_gaussian():
    wanted = norm(scale=0.6).entropy() + norm(scale=2.0).entropy()
    assert float(entropy(BOX, OLD)) == pytest.approx(wanted, rel=1e-5)


def test_far_beyond_the_limits_everything_is_finite():
    far = Said(jnp.asarray([1e4, -1e4], jnp.float32), OLD.log_std)
    for u in ([1.0, 0.0], [-1.0, 4.0], [0.0, 2.0]):
        value, slope = jax.value_and_grad(lambda s, u=u: log_prob(BOX, s, jnp.asarray(u, jnp.float32)))(far)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in slope)
