from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

from fakes import as_dataset, as_trajectory
from forethought.core import AbstractDynamics
from forethought.math.gp import Hyper
from forethought.math.kernels import profile
from forethought.math.scaling import features
from forethought.models.gp import FunctionSample, GaussianProcess
from forethought.models.gp_learner import GPLearner
from forethought.models.gp_posterior import stretch
from forethought.types import Spec

ZERO = jnp.zeros((), jnp.int32)
KINDS = ["se", "matern32", "matern52"]
SPEC = Spec(2, 1)


def rows(count: int, noise: float = 0.05, seed: int = 0):
    """A smooth nonlinear system in 2-D."""
    rng = np.random.default_rng(seed)
    x, u = rng.uniform(-2, 2, (count, 2)), rng.uniform(-1, 1, (count, 1))
    y = x + 0.1 * np.stack([x[:, 1], np.sin(2 * x[:, 0]) + u[:, 0]], 1)
    return x, u, y + 0.1 * noise * rng.normal(size=y.shape)


def fit(learner: GPLearner, count: int, noise: float = 0.05, spec: Spec = SPEC):
    data = as_dataset(spec, as_trajectory(*rows(count, noise)))
    return learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))


@pytest.fixture(scope="module")
def many() -> GaussianProcess:
    """An exact posterior with 512 functions drawn from it: fewer rows than inducing points."""
    return fit(GPLearner(functions=512, waves=1024), 40, 0.3)[0].model


@pytest.fixture(scope="module")
def sparse() -> GaussianProcess:
    """The same through 64 inducing points of 150 rows."""
    return fit(GPLearner(functions=512, waves=1024, inducing=64, sparse_above=1), 150, 0.3)[0].model


@pytest.fixture(scope="module")
def quiet() -> GaussianProcess:
    """Hardly any noise: weights of the kernel are large and cancel."""
    return fit(GPLearner(), 150, 1e-4)[0].model


def oracle(kind: str, model: GaussianProcess, j: int, z: np.ndarray, y: np.ndarray) -> GaussianProcessRegressor:
    """scikit-learn's process with the same hyperparameters."""
    lengths, signal2 = np.asarray(model.lengths[j]), float(model.signal[j]) ** 2
    nu = {"matern32": 1.5, "matern52": 2.5}.get(kind)
    shape = RBF(lengths) if nu is None else Matern(lengths, nu=nu)
    kernel = ConstantKernel(signal2) * shape + WhiteKernel(float(model.noise[j]) ** 2)
    return GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(z, y)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_scikit_learns(kind) -> None:
    x, u, y = rows(50)
    model = fit(GPLearner(kernel=kind, functions=2, waves=4, restarts=0), 50)[0].model
    raw = np.concatenate([x, u], 1)
    z = (raw - raw.mean(0)) / raw.std(0)
    change = y - x
    targets = (change - change.mean(0)) / change.std(0)
    x, u, _ = rows(20, seed=5)
    far = np.concatenate([x, 3 * x]), np.concatenate([u, u])
    found = jax.vmap(lambda x, u: model.predict(x, u, ZERO))(*far)
    query = (np.concatenate(far, 1) - raw.mean(0)) / raw.std(0)
    for j in range(2):
        mean, std = oracle(kind, model, j, z, targets[:, j]).predict(query, return_std=True)
        expected = far[0][:, j] + change.mean(0)[j] + change.std(0)[j] * mean
        np.testing.assert_allclose(found.mean[:, j], expected, rtol=1e-8, atol=1e-8)
        # scikit-learn's white noise is part of its predictive standard deviation
        np.testing.assert_allclose(found.std[:, j], change.std(0)[j] * std, rtol=1e-7, atol=1e-8)


def test_predictions_are_float64_whatever_comes_in(many) -> None:
    for dtype in (np.float32, np.float64):
        found = many.predict(np.ones(2, dtype), np.ones(1, dtype), ZERO)
        assert found.mean.dtype == found.std.dtype == np.float64


def values(model: GaussianProcess, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """What every drawn function says: [S points k]."""
    drawn = model.draw(jr.key(9), model.paths.weights.shape[0])
    each = lambda f: jax.vmap(lambda x, u: f.predict(x, u, ZERO).mean)(x, u)
    return np.asarray(jax.jit(lambda d: jax.lax.map(each, d))(drawn), float)


POINTS = np.array([[0.0, 0.0], [0.1, 0.05], [1.0, -1.0], [2.5, 0.0], [-3.5, 3.5], [8.0, 8.0]])
"""In the middle of the data, at their edge, and far away."""


def covariance(model: GaussianProcess, x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The posterior covariance of the functions' values at the points [k points points], in units of the data."""
    near = jax.vmap(lambda x, u: model.inputs.scale(features(model.spec, x, u)))(x, u)
    a = np.asarray(near)[None] / np.asarray(model.lengths)[:, None, :]
    centres = np.swapaxes(np.asarray(model.centres), 1, 2)
    square = lambda p, q: np.sum((p[:, :, None] - q[:, None]) ** 2, -1)
    signal2 = np.asarray(model.signal)[:, None, None] ** 2
    prior, cross = (signal2 * np.asarray(profile(model.kind, jnp.asarray(square(a, b)))) for b in (a, centres))
    known = np.einsum("kij,kpj->kip", np.asarray(model.root), cross)
    posterior = prior - np.einsum("kip,kiq->kpq", known, known)
    return posterior * np.asarray(model.outputs.std)[:, None, None] ** 2


@pytest.mark.parametrize("which", ["many", "sparse"])
def test_functions_have_mean_and_covariance_of_the_posterior(which, request) -> None:
    model = request.getfixturevalue(which)
    u = np.zeros((len(POINTS), 1))
    f = values(model, POINTS, u)
    mean = np.asarray(jax.vmap(lambda x, u: model.predict(x, u, ZERO).mean)(POINTS, u))
    expected = covariance(model, POINTS, u)
    centred = f - mean
    count = len(f)
    spread = np.sqrt(np.einsum("kpp->pk", expected))
    assert np.all(np.abs(centred.mean(axis=0)) < 4.5 * spread / np.sqrt(count))
    products = centred[:, :, None, :] * centred[:, None, :, :]
    error = products.std(axis=0) / np.sqrt(count)
    assert np.all(np.abs(products.mean(axis=0) - np.moveaxis(expected, 0, -1)) < 4.5 * error)
    # ... and those errors are small enough for the comparison to mean something.
    assert np.all(np.einsum("ppk->pk", error) < 0.12 * spread**2)


def test_functions_agree_where_there_are_data_and_differ_where_there_are_none(many) -> None:
    spread = values(many, POINTS, np.zeros((len(POINTS), 1))).std(axis=0)
    assert np.all(spread[-1] > 5 * spread[0])


def test_a_function_is_a_function(many) -> None:
    one = jax.tree.map(lambda v: v[0], many.draw(jr.key(3), 4))
    predict = jax.jit(lambda x, u: one.predict(x, u, ZERO).mean)
    x, u = jnp.asarray([0.3, -0.2], jnp.float32), jnp.asarray([0.1], jnp.float32)
    before = predict(x, u)
    # Along a rollout that comes back to the point it must say the same again.
    visited = [predict(x + 0.3 * h, u) for h in range(3)]
    np.testing.assert_array_equal(predict(x, u), before)
    np.testing.assert_array_equal(visited[0], before)
    assert one.predict(x, u, ZERO).mean.dtype == jnp.float32


def test_neighbouring_points_differ_little(many) -> None:
    """Independent noise at each step, which this is instead of, would not be continuous."""
    x = np.array([[3.0, 3.0], [3.001, 3.0]])
    f = values(many, x, np.zeros((2, 1))) - x
    assert np.abs(f[:, 0] - f[:, 1]).max() < 0.02 * f[:, 0].std(axis=0).min()


@pytest.mark.parametrize("particles", [1, 5, 32])
def test_a_draw_gives_different_functions_while_there_are_enough(particles, quiet) -> None:
    drawn = quiet.draw(jr.key(0), particles)
    assert len(np.unique(np.asarray(drawn.path.weights)[:, 0, 0])) == particles
    assert drawn.frame.centres.shape == (particles, *quiet.frame.centres.shape)


def test_a_draw_of_more_takes_all_as_often(quiet) -> None:
    drawn = quiet.draw(jr.key(0), 64)
    _, times = np.unique(np.asarray(drawn.path.weights)[:, 0, 0], return_counts=True)
    np.testing.assert_array_equal(times, np.full(32, 2))


def test_draws_differ_by_their_key(quiet) -> None:
    a, b, c = (np.asarray(quiet.draw(jr.key(k), 5).path.weights) for k in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_arithmetic_changes_a_function_by_less_than_its_noise(kind) -> None:
    model = fit(GPLearner(kernel=kind, restarts=0, functions=4), 120, 1e-4)[0].model
    one: FunctionSample = jax.tree.map(lambda v: v[0], model.draw(jr.key(3), 1))
    x, u, _ = rows(200, seed=7)
    x, u = x.astype(np.float32), u.astype(np.float32)

    def slow(x, u):
        frame, (weights, waves) = one.frame, one.path
        z = jnp.concatenate([x, u]).astype(jnp.float64) - frame.origin
        r2 = jnp.sum((frame.stretch[:, :, None] * z[:, None] - frame.centres) ** 2, axis=1) / stretch(model.kind) ** 2
        near = jnp.sum(profile(model.kind, r2) * weights, axis=-1)
        turns = jnp.einsum("kif,i->kf", waves.frequencies.astype(jnp.float64), z) + waves.phases
        far = jnp.sum(jnp.cos(2 * jnp.pi * turns) * waves.amplitudes, axis=-1)
        return near + far + frame.offset

    change = jax.jit(jax.vmap(lambda x, u: one.predict(x, u, ZERO).mean))(x, u) - x
    error = np.abs(np.asarray(change, float) - np.asarray(jax.vmap(slow)(x, u)))
    assert np.abs(np.asarray(one.path.weights)).sum() > 1e3 * np.asarray(model.outputs.std).max()
    typical, height = np.sqrt(np.mean(error**2, axis=0)), np.asarray(model.signal * model.outputs.std)
    assert np.all(typical < 0.2 * np.asarray(model.noise * model.outputs.std))
    assert np.all(typical < 1e-6 * height + 1e-7), "float32 waves, and nothing worse"


def test_a_function_has_the_derivative_that_differences_say(quiet) -> None:
    one = jax.tree.map(lambda v: v[0], quiet.draw(jr.key(3), 1))
    at = jnp.asarray([0.4, -0.9], jnp.float32)
    of = lambda x: one.predict(x, jnp.zeros(1), ZERO).mean
    step = 0.02
    differences = np.stack([(of(at.at[i].add(step)) - of(at.at[i].add(-step))) / (2 * step) for i in range(2)], axis=1)
    np.testing.assert_allclose(jax.jacfwd(of)(at), differences, atol=3e-3)
    np.testing.assert_allclose(jax.jacrev(of)(at), differences, atol=3e-3)


def test_the_mean_has_finite_derivatives_at_a_centre(many) -> None:
    x, u, _ = rows(1, 0.3)
    slope = jax.jacfwd(lambda x: many.predict(x, u[0], ZERO).mean)(jnp.asarray(x[0]))
    assert np.all(np.isfinite(slope))


def test_angles_come_back_on_the_circle_and_extras_as_they_are() -> None:
    spec = Spec(2, 1, extras=2, angles=(0,))
    rng = np.random.default_rng(0)
    x, u = np.stack([rng.uniform(-np.pi, np.pi, 60), rng.normal(size=60)], 1), rng.uniform(-1, 1, (60, 1))
    y = x + np.stack([0.3 * x[:, 1], u[:, 0]], 1)
    y[:, 0] = (y[:, 0] + np.pi) % (2 * np.pi) - np.pi
    reward = -np.cos(x[:, 0])
    data = as_dataset(spec, as_trajectory(x, u, y, reward))
    learner = GPLearner(functions=4, waves=16, restarts=0)
    model = learner.fit(learner.init(spec, jr.key(0)), data, jr.key(1))[0].model
    edge = np.array([3.1, 1.0]), np.zeros(1)
    for belief in (model, jax.tree.map(lambda v: v[0], model.draw(jr.key(0), 1))):
        mean = np.asarray(belief.predict(*edge, ZERO).mean)
        assert mean.shape == (4,)
        np.testing.assert_allclose(mean, [3.4 - 2 * np.pi, 1.0, -np.cos(3.1), 0.0], atol=0.05)


def test_a_process_without_data_is_its_prior() -> None:
    model = GPLearner().init(SPEC, jr.key(0)).model
    found = model.predict(np.array([1.0, 2.0]), np.zeros(1), ZERO)
    np.testing.assert_allclose(found.mean, [1.0, 2.0])
    assert np.all(np.asarray(found.std) > 1.0)


def test_a_draw_of_a_function_is_itself(quiet) -> None:
    one = jax.tree.map(lambda v: v[0], quiet.draw(jr.key(3), 1))
    again = one.draw(jr.key(5), 3)
    assert isinstance(again, AbstractDynamics)
    for leaf, own in zip(*(jax.tree.leaves(eqx.filter(t, eqx.is_array)) for t in (again, one)), strict=True):
        np.testing.assert_array_equal(leaf, np.broadcast_to(own, leaf.shape))


def test_inducing_points_that_are_all_rows_change_nothing() -> None:
    from forethought.models.gp_learner import distinct
    from forethought.models.gp_posterior import exact
    from forethought.models.gp_posterior import sparse as through

    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(64, 3)), rng.normal(size=(64, 2))
    table = distinct(z, y).padded(64)
    hyper = Hyper(np.zeros((2, 3)), np.zeros(2), np.full(2, np.log(0.2)))
    a, b = exact("se", hyper, table), through("se", hyper, np.stack([z, z]), table)
    at = rng.normal(size=(30, 3))
    k = np.exp(-0.5 * np.sum((at[:, None] - z[None]) ** 2, -1))
    for j in range(2):
        np.testing.assert_allclose(k @ a.weights[j], k @ b.weights[j], atol=1e-6)
        known = [np.sum((k @ np.asarray(p.root[j]).T) ** 2, 1) for p in (a, b)]
        np.testing.assert_allclose(known[0], known[1], atol=1e-6)


def test_the_scalers_and_arrays_of_a_model_are_float64_and_its_waves_float32(quiet) -> None:
    waves = jax.tree.leaves(quiet.paths.waves)
    assert {leaf.dtype for leaf in waves} == {np.dtype(np.float32)}
    others = jax.tree.leaves(dataclasses.replace(quiet, paths=quiet.paths._replace(waves=None)))
    assert {leaf.dtype for leaf in others} == {np.dtype(np.float64)}


@pytest.mark.parametrize("inducing", [128, 64])
def test_the_average_is_the_mean(inducing) -> None:
    """With fewer inducing points than rows too: everything is then made through them."""
    model = fit(GPLearner(functions=2, waves=4, restarts=0, inducing=inducing, sparse_above=1), 100)[0].model
    u = np.zeros((len(POINTS), 1))
    means = lambda of: np.asarray(jax.vmap(lambda x, u: of.predict(x, u, ZERO).mean)(POINTS, u))
    np.testing.assert_allclose(means(model.average()), means(model), atol=1e-5)
