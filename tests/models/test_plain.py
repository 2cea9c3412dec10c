from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fakes import as_dataset, as_trajectory
from forethought.models.plain import LEAST_NOISE, NetworkLearner, _loss, _parts
from forethought.testing import check_model
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)
SPEC = Spec(2, 1)
NOISE = np.array([0.02, 0.1])


def system(count: int, seed: int = 0, noise=NOISE):
    rng = np.random.default_rng(seed)
    x, u = rng.uniform(-2, 2, (count, 2)), rng.uniform(-1, 1, (count, 1))
    change = 0.3 * np.stack([x[:, 1], np.sin(2 * x[:, 0]) + u[:, 0]], 1)
    return x, u, x + change + noise * rng.normal(size=x.shape)


@pytest.fixture(scope="module")
def fitted():
    learner = NetworkLearner(width=32, gradient_steps=3000, batch=64, final_rate=0.05)
    before = learner.init(SPEC, jr.key(0))
    after, metrics = learner.fit(before, as_dataset(SPEC, as_trajectory(*system(1000))), jr.key(1))
    return before, after, metrics


def test_it_learns_the_change_of_state_and_one_noise_per_output(fitted) -> None:
    x, u, y = system(500, seed=9, noise=0.0)
    said = jax.jit(jax.vmap(lambda a, b: fitted[1].model.predict(a, b, ZERO)))(x, u)
    assert np.abs(np.asarray(said.mean) - y).mean() < 0.1 * np.abs(y - x).mean()
    std = np.asarray(said.std)
    np.testing.assert_array_equal(std, std[:1] * np.ones_like(std))
    # Held-out residuals (about 50 rows): the noise, and what was not learned.
    np.testing.assert_allclose(std[0], NOISE, rtol=0.4)


def test_the_loss_is_the_squared_error_and_decay(fitted) -> None:
    member = fitted[1].model.network
    rng = np.random.default_rng(0)
    z, y = (jnp.asarray(rng.normal(size=(16, k)), jnp.float32) for k in (3, 2))
    out = np.asarray(z, float)
    for i, layer in enumerate(member.layers):
        out = out @ np.asarray(layer.weight, float) + np.asarray(layer.bias, float)
        out = out / (1.0 + np.exp(-out)) if i < 2 else out
    decay = sum(np.sum(np.asarray(layer.weight, float) ** 2) for layer in member.layers)
    found = _loss(NetworkLearner(weight_decay=0.01), member, z, y)
    np.testing.assert_allclose(found, np.mean((out - y) ** 2) + 0.005 * decay, rtol=1e-5)


def test_the_noise_is_that_of_rows_it_never_saw(fitted) -> None:
    """Noise alone: on its own rows the network is much too sure, and the hold-out shows it."""
    rng = np.random.default_rng(0)
    x, u, e = rng.normal(size=(100, 2)), rng.normal(size=(100, 1)), rng.normal(size=(100, 2))
    data = as_dataset(SPEC, as_trajectory(x, u, x + e))
    std = []
    for holdout in (0.3, 0.0):
        learner = NetworkLearner(gradient_steps=2000, weight_decay=0.0, holdout=holdout)
        after, metrics = learner.fit(learner.init(SPEC, jr.key(0)), data, jr.key(1))
        std.append(np.asarray(after.model.noise))
    assert np.all(std[0] > 0.9)
    assert np.all(std[1] < 0.75 * std[0])
    assert np.isnan(metrics["holdout_mse"]).all(), "every row was seen: no flattering number"


def test_draws_are_copies(fitted) -> None:
    model = fitted[1].model
    drawn = model.draw(jr.key(0), 3)
    for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(model), strict=True):
        assert a.shape == (3, *b.shape)
        np.testing.assert_array_equal(a, np.broadcast_to(b, a.shape))


def test_the_state_keeps_its_tree_shapes_and_dtypes(fitted) -> None:
    before, after, metrics = fitted
    shape = lambda tree: [(v.shape, v.dtype, getattr(v, "weak_type", False)) for v in jax.tree.leaves(tree)]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert shape(before) == shape(after)
    arrays = [leaf for leaf in jax.tree.leaves(after) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    assert not any(leaf.dtype == jnp.float64 for leaf in arrays), "64-bit is on in the tests, and networks are float32"
    assert metrics["holdout_mse"].shape == (1,)


def test_a_certain_system_leaves_a_little_noise() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2))
    data = as_dataset(SPEC, as_trajectory(x, x[:, :1], x))
    learner = NetworkLearner(width=8, gradient_steps=1000, learning_rate=1e-2, final_rate=0.0)
    after, _ = learner.fit(learner.init(SPEC, jr.key(0)), data, jr.key(1))
    assert np.all(np.asarray(after.model.noise) >= np.float32(LEAST_NOISE))
    assert np.all(np.isfinite(after.model.predict(jnp.zeros(2), jnp.zeros(1), ZERO).log_prob(jnp.zeros(2))))


def test_a_network_that_is_not_finite_starts_anew(fitted) -> None:
    learner = NetworkLearner(width=8, gradient_steps=50)
    data = as_dataset(SPEC, as_trajectory(*system(60)))
    begun = learner.init(SPEC, jr.key(0))
    where = lambda f: (f.model.network.layers[0].weight, f.model.noise)
    sick = eqx.tree_at(where, begun, replace_fn=lambda v: v * jnp.nan)
    after, metrics = learner.fit(sick, data, jr.key(1))
    assert not bool(metrics["failed"])
    assert all(np.isfinite(v).all() for v in jax.tree.leaves((after.model, after.optimiser)))
    assert np.any(np.asarray(_parts(after).members.layers[0].weight) != 0.0)


@pytest.mark.parametrize("spec", [Spec(3, 2, extras=2, angles=(2,)), pytest.param(None, marks=pytest.mark.slow)])
def test_it_keeps_what_a_learner_promises(spec) -> None:
    check_model(NetworkLearner(width=16, gradient_steps=500), spec)
