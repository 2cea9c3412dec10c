"""What planners are told by a user's equations together with a model of what they leave out."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.core import Problem
from forethought.costs.gymnasium import PendulumCost
from forethought.math.angles import wrap_components
from forethought.math.rollout import Imagination, _has_one_way, needed
from forethought.models.gmm import GMMLearner
from forethought.models.gp import FunctionSample
from forethought.models.gp_learner import GPLearner
from forethought.models.physics import PhysicsLearner, Shifted
from forethought.types import Box, Spec
from poor import SPEC

NOW = jnp.zeros((), jnp.int32)
GUESS = {"a": 0.5, "b": 1.0}
GP = GPLearner(restarts=0, evaluations=5, functions=4, waves=8)
GMM = GMMLearner(components=2, starts=1)
predict = eqx.filter_jit(lambda model, x, u: model.predict(x, u, NOW))


def simple(x, u, theta):
    return theta["a"] * x + theta["b"] * jnp.sum(u)


def fit(learner, spec, rows: int):
    random = np.random.default_rng(0)
    x, u = random.normal(size=(rows, 2)), random.normal(size=(rows, 1))
    data = as_dataset(spec, as_trajectory(x, u, 0.9 * x + 2.0 * u + 0.1 * random.normal(size=x.shape)))
    return learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))


@pytest.mark.parametrize("spec", [SPEC, Spec(2, 1, angles=(1,))])
def test_one_gaussian_moved_is_one_gaussian(spec) -> None:
    """A planner then goes through the mean, and asks for the average of what has one."""
    after, _ = fit(PhysicsLearner(simple, GUESS, residual=GP), spec, 20)
    model, box = after.model, Box(-np.ones(1), np.ones(1))
    problem = Problem(model, PendulumCost(), box, jnp.zeros(2, jnp.float32), NOW, 5)
    assert _has_one_way(problem)
    assert isinstance(needed(Imagination(), model).belief.residual, FunctionSample)
    assert needed(Imagination(propagation="ts-inf"), model) is model
    x, u = np.array([0.3, 3.1]), np.array([0.4])
    here, inner, mean = (predict(m, x, u) for m in (model, model.belief.residual, model.average()))
    np.testing.assert_allclose(mean.mean, here.mean, atol=1e-5)
    np.testing.assert_allclose(here.std, inner.std, rtol=1e-12)
    shift = model.belief.change(jnp.asarray(x), u, model.belief.theta)
    np.testing.assert_allclose(here.mean, wrap_components(inner.mean + shift, spec.angles), rtol=1e-12)
    np.testing.assert_allclose(here.log_prob(here.mean + 0.1), inner.log_prob(inner.mean + 0.1), rtol=1e-6)
    np.testing.assert_allclose(here.sample(jr.key(3)), wrap_components(inner.sample(jr.key(3)) + shift, spec.angles))


@pytest.mark.parametrize("spec", [SPEC, Spec(2, 1, angles=(1,))])
def test_a_mixture_moved_is_a_mixture_with_a_spread(spec) -> None:
    after, _ = fit(PhysicsLearner(simple, GUESS, residual=GMM), spec, 60)
    model, x, u = after.model, np.array([0.3, 0.9]), np.array([0.4])
    here, inner = predict(model, x, u), predict(model.belief.residual, x, u)
    assert isinstance(here.unwrapped if spec.angles else here, Shifted)
    np.testing.assert_allclose(here.std, inner.std, rtol=1e-9)
    assert model.average() is model, "a planner draws from the posterior of theta"
