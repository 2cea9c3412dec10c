"""Gaussians through a fitted Gaussian process model, in the units of its data."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.tree_util import Partial

from forethought.errors import UserError
from forethought.math.belief import Belief, OpenLoopActions, forecast
from forethought.math.dataset import append, empty
from forethought.math.moments_gp import se_moments
from forethought.math.scaling import features
from forethought.models.gp_learner import GPLearner
from forethought.models.gp_moments import moments, noise_variance, se_posterior
from forethought.types import Spec, Trajectory
from se_cases import covariance

SPEC = Spec(2, 1, extras=2, angles=(1,))
UNIT = np.array([1e3, 1.0])


def data(rows: int = 60):
    """A driven pendulum: a reading in odd units, and an angle."""
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(rows, 2)) * UNIT, rng.uniform(-1.0, 1.0, (rows, 1))
    change = np.stack([300.0 * np.sin(x[:, 1]) + 200.0 * u[:, 0], 1e-3 * x[:, 0] * 0.3 + 0.2 * u[:, 0]], axis=1)
    y = x + change + 0.02 * rng.normal(size=x.shape) * UNIT
    no, steps = np.zeros(rows, bool), np.arange(rows)
    reward = -np.cos(x[:, 1])
    q = Trajectory(x, u, y, reward, no, no, steps, np.zeros(rows), np.zeros(rows, np.int64))
    return append(empty(SPEC, 64), q, 0)


@pytest.fixture(scope="module")
def model():
    recipe = GPLearner(evaluations=40, restarts=1)
    return recipe.fit(recipe.init(SPEC, jr.key(0)), data(), jr.key(1))[0].model


X, U = np.array([400.0, 0.6]), np.array([0.3])


def test_without_spread_it_is_the_model_s_prediction(model):
    said = jax.jit(lambda m: m.predict(X, U, jnp.int32(0)))(model)
    got = jax.jit(moments)(model, features(SPEC, jnp.asarray(X), jnp.asarray(U)), np.zeros((4, 4)))
    np.testing.assert_allclose(got.mean[:2], np.asarray(said.mean)[:2] - X, rtol=1e-10)
    np.testing.assert_allclose(got.mean[2:], said.mean[2:], rtol=1e-10, atol=1e-12)
    total = np.diag(got.cov) + noise_variance(model)
    # A variance is what is left of the prior's, whose rounding stays in it: a ten-thousandth of the least noise.
    rounding = 45.0 * np.finfo(np.float64).eps * np.asarray(model.signal * model.outputs.std) ** 2
    assert np.all(np.abs(total - np.asarray(said.std) ** 2) <= 1e-9 * total + rounding)


def test_a_spread_agrees_with_sampling_to_one_percent(model):
    mean = np.asarray(features(SPEC, jnp.asarray(X), jnp.asarray(U)))
    scale = np.array([300.0, 0.2, 0.2, 0.2])
    cov = covariance(4, 1.0) * np.outer(scale, scale)
    got = jax.jit(moments)(model, mean, cov)
    z = np.random.default_rng(2).multivariate_normal(mean, cov, 200_000)
    f, c = predictions(model, z)
    off, inputs = f - f.mean(axis=0), z - z.mean(axis=0)
    var = off.T @ off / len(z) + np.diag(c.mean(axis=0))
    std = np.sqrt(np.diag(var))
    np.testing.assert_allclose((got.mean - f.mean(axis=0)) / std, 0.0, atol=0.01)
    np.testing.assert_allclose((got.cov - var) / np.outer(std, std), 0.0, atol=0.01)
    cross = off.T @ inputs / len(z) / np.outer(std, inputs.std(axis=0))
    np.testing.assert_allclose(got.slope @ cov / np.outer(std, np.sqrt(np.diag(cov))), cross, atol=0.01)


def predictions(model, z):
    """Mean and variance of the functions, by the textbook."""
    inverse = np.einsum("kji,kjl->kil", model.root, model.root)
    scaled = (z - np.asarray(model.inputs.mean)) / np.asarray(model.inputs.std)
    mean, var = [], []
    for a in range(model.signal.shape[0]):
        v = scaled / np.asarray(model.lengths[a])
        r2 = sum((v[:, d, None] - np.asarray(model.centres[a, d])) ** 2 for d in range(v.shape[1]))
        k = float(model.signal[a]) ** 2 * np.exp(-0.5 * r2)
        mean.append(k @ np.asarray(model.weights[a]))
        var.append(float(model.signal[a]) ** 2 - np.einsum("ni,ij,nj->n", k, inverse[a], k, optimize=True))
    std = np.asarray(model.outputs.std)
    return np.stack(mean, axis=1) * std + np.asarray(model.outputs.mean), np.stack(var, axis=1) * std**2


@pytest.mark.parametrize("outputs", [1, 4])
def test_the_first_outputs_alone_are_those_of_all(model, outputs):
    mean, cov = np.asarray(features(SPEC, jnp.asarray(X), jnp.asarray(U))), 1e-2 * np.eye(4)
    few = jax.jit(se_moments)(se_posterior(model, outputs), mean, cov)
    everything = jax.jit(moments)(model, mean, cov)
    np.testing.assert_allclose(few.mean, everything.mean[:outputs], rtol=1e-12)
    np.testing.assert_allclose(few.cov, everything.cov[:outputs, :outputs], rtol=1e-9, atol=1e-12)


def test_a_certain_belief_follows_the_model_s_own_predictions(model):
    us = np.array([[0.3], [-0.5], [0.9]])
    change = Partial(se_moments, se_posterior(model, SPEC.n))
    known = change.args[0]._replace(root=None, inverse=None)
    start = Belief(X, np.zeros((2, 2)))
    follow = jax.jit(forecast, static_argnums=(5,))
    got = follow(SPEC, Partial(se_moments, known), OpenLoopActions(us), np.zeros(2), start, 3)
    x = jnp.asarray(X)
    for i in range(3):
        # The means of a belief are not wrapped; these stay below half a turn.
        x = model.predict(x, us[i], jnp.int32(i)).mean[:2]
        np.testing.assert_allclose(got.mean[i], x, rtol=1e-10)
    np.testing.assert_array_equal(got.cov, 0.0)
    noise = noise_variance(model)[:2]
    doubtful = follow(SPEC, change, OpenLoopActions(us), noise, start, 3)
    assert np.all(np.diagonal(doubtful.cov, axis1=1, axis2=2) >= np.asarray(noise))
    assert np.all(doubtful.least > 0.0)


@pytest.mark.parametrize("kind", ["matern32", "matern52"])
def test_other_covariance_functions_are_refused(model, kind):
    other = dataclasses.replace(model, kind=kind)
    with pytest.raises(UserError, match=rf"has the covariance function {kind}; .* closed form for se"):
        moments(other, np.zeros(4), np.eye(4))
    with pytest.raises(UserError, match="fit it with that one"):
        se_posterior(other)


def test_single_precision_is_refused(model):
    with jax.enable_x64(False), pytest.raises(UserError, match="Moment matching computes in float64"):
        se_posterior(model)
