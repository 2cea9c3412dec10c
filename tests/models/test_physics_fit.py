"""The fit of a user's equations: units, noise and how wide the posterior is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.models.physics import PhysicsLearner
from forethought.models.physics_fit import _rows
from forethought.types import Spec
from poor import SPEC


def fit(learner, spec, episode):
    return learner.fit(learner.init(spec, jr.key(0)), as_dataset(spec, episode), jr.key(1))


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [(1, [1, 1, 1, 1, 0, 1, 1, 1]), (3, [3, 2, 1, 1, 0, 2, 1, 1]), (9, [3, 2, 1, 1, 0, 2, 1, 1])],
)
def test_how_far_stretches_reach(horizon, expected) -> None:
    x = np.arange(16.0).reshape(8, 2)
    data = as_dataset(SPEC, as_trajectory(x, x[:, :1], x))
    data.episode[:8] = [0, 0, 0, 1, 1, 1, 1, 2]
    data.t[:8] = [0, 1, 2, 3, 4, 5, 6, 9]  # the second begins where the first one's clock stopped
    use = np.arange(data.capacity) < 8
    use[4] = False
    found = _rows(data, use, horizon)
    assert found.reach[:8].tolist() == expected
    assert not found.reach[8:].any()
    np.testing.assert_array_equal(found.x[4], x[0])
    data.t[6] = 8  # a step is missing
    assert _rows(data, use, 3).reach[5] == 1


def test_units_of_parameters_do_not_matter() -> None:
    random, found = np.random.default_rng(0), []
    x, u = random.normal(size=(60, 2)), random.normal(size=(60, 1))
    data = as_trajectory(x, u, 0.9 * x + 2.0 * u + 0.1 * random.normal(size=x.shape))
    for a, b in ((1.0, 1.0), (1e8, 1e-4)):
        law = lambda x, u, theta, a=a, b=b: theta["a"] / a * x + theta["b"] / b * jnp.sum(u)
        _, metrics = fit(PhysicsLearner(law, {"a": 0.5 * a, "b": b}), SPEC, data)
        found.append([metrics["theta_a"] / a, metrics["theta_b"] / b])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def only_one_moves(x, u, theta):
    """Five parameters, all of them in one of six states."""
    return jnp.append(0.5 * x[:5], theta["w"] @ jnp.append(x[:4], u))


@pytest.mark.parametrize(
    ("rows", "low", "high"),
    [(4, 10.0, 1e4), pytest.param(5, 10.0, 1e4, marks=pytest.mark.slow), (7, 0.4, 1.4), (12, 0.6, 1.4)],
)
def test_noise_where_parameters_act_on_one_state(rows, low, high) -> None:
    """What they used up is used up there; with nothing left all changes may be noise."""
    random, ratios = np.random.default_rng(0), []
    true = {"w": jnp.array([0.5, -0.3, 0.2, 0.4, 0.7])}
    move = jax.jit(jax.vmap(lambda x, u: only_one_moves(x, u, true)))
    learner = PhysicsLearner(only_one_moves, {"w": np.ones(5)}, doubt=5.0)
    for _ in range(40):
        x, u = random.normal(size=(rows, 6)), random.normal(size=(rows, 1))
        y = move(x, u)
        _, metrics = fit(learner, Spec(6, 1), as_trajectory(x, u, np.asarray(y) + 0.1 * random.normal(size=y.shape)))
        ratios.append(metrics["noise"] ** 2 / 0.01)
    assert low < np.median(ratios, axis=0)[-1] < high
    assert ((np.median(ratios, axis=0) > 0.6) & (np.median(ratios, axis=0) < 1.4))[:5].all()
    assert np.min(ratios, axis=0)[-1] > 0.01 * low


def coupled(x, u, theta):
    return jnp.stack([theta["a"] * x[0] + 0.1 * x[1] + theta["b"] * u[0], theta["c"] * x[1] + 0.5])


@pytest.mark.parametrize(
    ("horizon", "seen"), [(1, 0.0), pytest.param(4, 0.0, marks=pytest.mark.slow), (10, 0.0), (10, 0.05)]
)
def test_the_posterior_is_as_wide_as_estimates_are(horizon, seen) -> None:
    """Mahalanobis distance of the truth, with process noise: stretches that overlap share it."""
    random, true, found = np.random.default_rng(1), np.array([0.8, 0.5, 0.9]), []
    learner = PhysicsLearner(coupled, {"a": 1.0, "b": 0.2, "c": 1.0}, horizon=horizon, doubt=5.0)
    for _ in range(40):
        x, u = [random.normal(size=2)], random.uniform(-1.0, 1.0, (60, 1))
        for action in u:
            a, b, c = true
            here = np.array([a * x[-1][0] + 0.1 * x[-1][1] + b * action[0], c * x[-1][1] + 0.5])
            x.append(here + 0.05 * random.normal(size=2))
        x = np.array(x) + seen * random.normal(size=(61, 2))
        model = fit(learner, SPEC, as_trajectory(x[:-1], u, x[1:]))[0].model
        away = np.linalg.solve(np.asarray(model.root), np.asarray(model.p) - true)
        found.append(away @ away / 3.0)
    assert 0.3 < np.median(found) < 1.2
    assert np.mean(found) < 2.0
