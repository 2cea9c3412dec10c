from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from fakes import as_dataset, as_trajectory
from forethought.math.em import Joint
from forethought.math.scaling import Scaler
from forethought.models.gmm import FittedGMM, GMMLearner, conditioned, familiarity, jacobian
from forethought.testing import check_model
from forethought.types import Spec, UserError
from poor import CASES, SPEC, all_finite, episode

NOW = jnp.zeros((), jnp.int32)
predict = eqx.filter_jit(lambda model, x, u: model.predict(x, u, NOW))
means = eqx.filter_jit(lambda model, xs, us: jax.vmap(lambda x, u: model.predict(x, u, NOW).mean)(xs, us))
familiar = eqx.filter_jit(familiarity)
slopes = eqx.filter_jit(jacobian)
expected_slopes = eqx.filter_jit(lambda model, x, u: jacobian(model, x, u, expected=True))
autodiff = eqx.filter_jit(
    lambda model, x, u: jax.jacfwd(lambda x, u: model.predict(x, u, NOW).mean, argnums=(0, 1))(x, u)
)
autodiff_of_each = eqx.filter_jit(
    lambda model, x, u: jax.jacfwd(lambda x, u: model.predict(x, u, NOW).means, argnums=(0, 1))(x, u)
)
draws = eqx.filter_jit(lambda prediction, key: jax.vmap(prediction.sample)(jr.split(key, 2000)))
log_probs = eqx.filter_jit(lambda prediction, ys: jax.vmap(prediction.log_prob)(ys))
PLAIN, LINE, ANGLE = Spec(2, 1), Spec(1, 1), Spec(3, 1, angles=(1,))
DEFAULT = GMMLearner()


def curved(rows: int, spec: Spec = PLAIN, seed: int = 0, noise: float = 0.02):
    """A smooth nonlinear system with noise."""
    random = np.random.default_rng(seed)
    x, u = random.uniform(-2, 2, (rows, spec.n)), random.uniform(-1, 1, (rows, spec.m))
    change = 0.3 * np.sin(2.0 * x[:, ::-1]) + 0.2 * u
    return x, u, x + change + noise * random.normal(size=x.shape)


def fit(x, u, y, spec: Spec = PLAIN, learner: GMMLearner = DEFAULT, **flags):
    fitted = learner.init(spec, jr.key(0))
    return learner.fit(fitted, as_dataset(spec, as_trajectory(x, u, y, **flags)), jr.key(1))


@pytest.fixture(scope="module")
def model():
    after, metrics = fit(*curved(600))
    assert metrics["components"] > 3
    return after.model


@pytest.fixture(scope="module")
def angular():
    return fit(*curved(600, ANGLE), ANGLE)[0].model


def random_model(spec: Spec = LINE, components: int = 3, seed: int = 0):
    """A model of a known joint over [x, u, change], in units of its own, and the joint."""
    random = np.random.default_rng(seed)
    d = 2 * spec.n + spec.m
    root = random.normal(size=(components, d, d))
    covs = root @ root.transpose(0, 2, 1) / d + 0.1 * np.eye(d)
    joint = Joint(np.log(random.dirichlet(np.ones(components))), random.normal(size=(components, d)), covs)
    scaler = lambda k: Scaler(jnp.asarray(random.normal(size=k)), jnp.asarray(random.uniform(0.5, 2.0, k)))
    scalers = scaler(spec.n + spec.m), scaler(spec.n)
    return conditioned(joint, spec, scalers, components + 2), joint


def test_one_component_is_the_conditional_gaussian() -> None:
    x, u, y = curved(80)
    after, _ = fit(x, u, y, learner=GMMLearner(components=1, floor=1e-12))
    z, change = np.concatenate([x, u], 1), y - x
    both = np.cov(np.concatenate([z, change], 1).T, bias=True)
    slope = both[3:, :3] @ np.linalg.inv(both[:3, :3])
    at = np.array([0.3, -0.7, 0.4])
    found = predict(after.model, at[:2], at[2:])
    np.testing.assert_allclose(found.mean, at[:2] + change.mean(0) + slope @ (at - z.mean(0)), rtol=1e-8)
    # Unbiased: the residual sum of squares over rows - 3 slopes - 1 intercept.
    residual = change - change.mean(0) - (z - z.mean(0)) @ slope.T
    np.testing.assert_allclose(found.covariance, residual.T @ residual / (80 - 4), rtol=1e-6)


@pytest.mark.parametrize("at", [(0.0, 0.0), (1.5, -1.0), (-4.0, 3.0)])
def test_the_conditional_is_the_joint_divided_by_its_marginal(at) -> None:
    model, joint = random_model()
    x, u = np.array([at[0]]), np.array([at[1]])
    prediction = predict(model, x, u)
    ys = np.linspace(-40.0, 40.0, 16001)
    found = np.exp(np.asarray(log_probs(prediction, ys[:, None])))
    np.testing.assert_allclose(np.trapezoid(found, ys), 1.0, rtol=1e-9)
    z = (np.array(at) - np.asarray(model.inputs.mean)) / np.asarray(model.inputs.std)
    change = (ys - at[0] - float(model.outputs.mean[0])) / float(model.outputs.std[0])
    rows = np.concatenate([np.tile(z, (len(ys), 1)), change[:, None]], 1)
    density = sum(np.exp(w) * stats.multivariate_normal(m, c).pdf(rows) for w, m, c in zip(*joint, strict=True)) / sum(
        np.exp(w) * stats.multivariate_normal(m[:2], c[:2, :2]).pdf(z) for w, m, c in zip(*joint, strict=True)
    )
    np.testing.assert_allclose(found, density / float(model.outputs.std[0]), rtol=1e-7, atol=1e-12)
    mean = np.trapezoid(ys * found, ys)
    np.testing.assert_allclose(prediction.mean[0], mean, rtol=1e-8)
    np.testing.assert_allclose(prediction.covariance[0, 0], np.trapezoid((ys - mean) ** 2 * found, ys), rtol=1e-7)


@pytest.mark.parametrize("which", ["model", "angular", "random"])
def test_the_jacobian_is_autodiffs(which, request) -> None:
    it = random_model(Spec(2, 2))[0] if which == "random" else request.getfixturevalue(which)
    points = np.random.default_rng(3).uniform(-2, 2, (8, it.spec.n + it.spec.m))
    for point in points:
        x, u = jnp.asarray(point[: it.spec.n]), jnp.asarray(point[it.spec.n :])
        for ours, theirs in zip(slopes(it, x, u), autodiff(it, x, u), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_expected_slope_leaves_the_change_of_the_weights_out() -> None:
    it = random_model(Spec(2, 2))[0]
    x, u = jnp.array([0.4, -0.9]), jnp.array([0.2, 0.5])
    weights = jnp.exp(predict(it, x, u).log_weights)
    assert weights.max() < 0.99
    for found, each, whole in zip(expected_slopes(it, x, u), autodiff_of_each(it, x, u), slopes(it, x, u), strict=True):
        np.testing.assert_allclose(found, jnp.einsum("k,kij->ij", weights, each), rtol=1e-9, atol=1e-12)
        assert np.abs(found - whole).max() > 1e-3


@pytest.mark.parametrize("away", [1e2, 1e5, 1e12, -1e12])
def test_far_from_all_data_nothing_is_nan(model, away) -> None:
    x, u = jnp.array([away, 0.0]), jnp.array([0.3])
    prediction = predict(model, x, u)
    assert all_finite((prediction.mean, prediction.covariance, draws(prediction, jr.key(0))))
    np.testing.assert_allclose(jnp.exp(prediction.log_weights).sum(), 1.0)
    assert np.isfinite(log_probs(prediction, prediction.mean[None]))
    assert all_finite(slopes(model, x, u))
    assert familiar(model, x, u) < model.typical[0]


def test_familiarity_says_how_near_the_data_are() -> None:
    x, u, y = curved(500)
    it = fit(x, u, y)[0].model
    found = np.asarray([familiar(it, a, b) for a, b in zip(x, u, strict=True)])
    np.testing.assert_allclose(it.typical, np.quantile(found, [0.01, 0.05, 0.5]), rtol=1e-9)
    there = np.isfinite(it.log_weights)
    z = jnp.concatenate([x[0], u[0]])
    scaled = (z - it.inputs.mean) / it.inputs.std
    best = max(
        stats.multivariate_normal(m[:3], c[:3, :3]).logpdf(scaled)
        for m, c in zip(np.asarray(it.means)[there], np.asarray(it.covs)[there], strict=True)
    )
    np.testing.assert_allclose(found[0], best, rtol=1e-8)
    outwards = [float(familiar(it, jnp.array([r, 0.0]), jnp.zeros(1))) for r in (2.5, 5.0, 10.0, 100.0)]
    assert (np.diff(outwards) < 0).all()


def test_it_learns_what_one_gaussian_cannot() -> None:
    x, u, y = curved(300, seed=7, noise=0.0)
    errors = []
    for components in (1, 16):
        it = fit(*curved(2000), learner=GMMLearner(components))[0].model
        errors.append(np.sqrt(np.mean((np.asarray(means(it, x, u)) - y) ** 2)))
    assert errors[1] < 0.5 * errors[0]


def test_two_modes_stay_two() -> None:
    random = np.random.default_rng(0)
    x, u = random.normal(size=(400, 1)), random.uniform(-1, 1, (400, 1))
    y = x + np.where(random.uniform(size=(400, 1)) < 0.25, -1.0, 1.0) + 0.05 * random.normal(size=(400, 1))
    after, _ = fit(x, u, y, Spec(1, 1))
    prediction = predict(after.model, jnp.zeros(1), jnp.zeros(1))
    found = np.asarray(draws(prediction, jr.key(0)))[:, 0]
    assert (np.abs(np.abs(found) - 1.0) < 0.3).all()
    assert abs((found < 0).mean() - 0.25) < 0.06


def test_noise_is_not_underestimated_with_few_rows() -> None:
    ratios = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        x, u = random.normal(size=(12, 2)), random.normal(size=(12, 1))
        y = 0.9 * x + u + random.normal(size=(12, 2))
        it = fit(x, u, y, learner=GMMLearner(components=1))[0].model
        ratios.append(np.diag(predict(it, jnp.zeros(2), jnp.zeros(1)).covariance).mean())
    assert 0.9 < np.mean(ratios) < 1.1


def test_units_do_not_matter() -> None:
    x, u, y = curved(300)
    by, by_u = np.array([1e4, 1e-3]), 50.0
    one, other = fit(x, u, y)[0].model, fit(by * x, by_u * u, by * y)[0].model
    at, push = np.array([0.5, -1.2]), np.array([0.3])
    here, there = predict(one, at, push), predict(other, by * at, by_u * push)
    np.testing.assert_allclose(there.mean, by * here.mean, rtol=1e-6)
    np.testing.assert_allclose(there.covariance, by[:, None] * here.covariance * by, rtol=1e-5)


def test_the_order_of_states_does_not_matter() -> None:
    x, u, y = curved(300)
    one, other = fit(x, u, y)[0].model, fit(x[:, ::-1], u, y[:, ::-1])[0].model
    at, push = np.array([0.5, -1.2]), np.array([0.3])
    here, there = predict(one, at, push), predict(other, at[::-1].copy(), push)
    np.testing.assert_allclose(there.mean[::-1], here.mean, rtol=1e-5)


def test_angles_are_taken_the_short_way_round() -> None:
    random = np.random.default_rng(0)
    x, u = random.uniform(-np.pi, np.pi, (200, 1)), random.uniform(-1, 1, (200, 1))
    y = (x + 0.3 * u + np.pi) % (2 * np.pi) - np.pi
    it = fit(x, u, y, Spec(1, 1, angles=(0,)))[0].model
    found = predict(it, jnp.array([3.1]), jnp.array([1.0]))
    np.testing.assert_allclose(found.mean, [3.4 - 2 * np.pi], atol=0.01)


def test_reward_and_termination_are_predicted_as_they_are() -> None:
    x, u, y = curved(200, noise=0.0)
    spec = Spec(2, 1, extras=2)
    after, metrics = fit(x, u, y, spec, reward=5.0 + x[:, 0], terminated=np.zeros(200, bool))
    assert not metrics["failed"]
    found = predict(after.model, jnp.array([0.5, 0.5]), jnp.zeros(1))
    np.testing.assert_allclose(found.mean[2:], [5.5, 0.0], atol=0.05)


def test_shapes_and_dtypes_never_change() -> None:
    learner = GMMLearner(components=6)
    begun = learner.init(PLAIN, jr.key(0))
    for rows in (30, 500):
        after, _ = fit(*curved(rows), learner=learner)
        assert jax.tree.structure(after) == jax.tree.structure(begun)
        look = lambda tree: [(v.shape, v.dtype, v.weak_type) for v in jax.tree.leaves(tree)]
        assert look(after) == look(begun)
    assert {v.dtype for v in jax.tree.leaves(begun)} == {jnp.dtype(jnp.float64)}


def test_components_that_are_not_there_say_nothing() -> None:
    model, joint = random_model(components=3)
    missing = conditioned(joint, model.spec, (model.inputs, model.outputs), 9)
    x, u = jnp.array([0.3]), jnp.array([-0.4])
    one, other = predict(model, x, u), predict(missing, x, u)
    assert np.isneginf(other.log_weights[3:]).all()
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
    np.testing.assert_allclose(log_probs(one, x[None]), log_probs(other, x[None]), rtol=1e-12)
    np.testing.assert_allclose(slopes(model, x, u)[0], slopes(missing, x, u)[0], rtol=1e-12)
    assert familiar(model, x, u) == familiar(missing, x, u)


@pytest.mark.parametrize("spec", [Spec(3, 2, extras=2, angles=(2,)), pytest.param(None, marks=pytest.mark.slow)])
def test_check_model(spec) -> None:
    check_model(GMMLearner(), spec)


@pytest.mark.parametrize("case", CASES)
def test_poor_data(case) -> None:
    learner = GMMLearner()
    begun = learner.init(SPEC, jr.key(0))
    data = as_dataset(SPEC, episode(case))
    after, metrics = learner.fit(begun, data, jr.key(1))
    assert isinstance(after, FittedGMM)
    assert all_finite(after, but="log_weights")
    assert not np.isnan(after.model.log_weights).any()
    found = predict(after.model, jnp.array([0.1, -0.2]), jnp.array([0.3]))
    assert all_finite((found.mean, found.covariance, draws(found, jr.key(0))))
    used = int(data.count) - metrics["left_out"]
    assert metrics["failed"] == (used < 5)
    assert metrics["left_out"] == {"nothing but NaN": 40}.get(case, int("NaN" in case or "infinite" in case))
    if metrics["failed"]:
        assert after is begun


@pytest.mark.parametrize(("n", "m", "match"), [(2, 2, "actions of size 2"), (3, 1, "states of size 3")])
def test_data_of_another_system_are_refused(n, m, match) -> None:
    learner, x = GMMLearner(), np.zeros((10, n))
    other = as_dataset(Spec(n, m), as_trajectory(x, np.zeros((10, m)), x))
    with pytest.raises(UserError, match=match):
        learner.fit(learner.init(PLAIN, jr.key(0)), other, jr.key(0))


def test_it_needs_64_bits() -> None:
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(UserError, match=r"The Gaussian mixture computes in float64.*jax_enable_x64"):
            GMMLearner().init(PLAIN, jr.key(0))
    finally:
        jax.config.update("jax_enable_x64", True)


def test_settings_reach_em() -> None:
    x, u, y = curved(200)
    assert fit(x, u, y, learner=GMMLearner(components=2))[1]["components"] <= 2
    assert fit(x, u, y, learner=GMMLearner(rounds=1, starts=1))[1]["rounds"] == 1
    tight, loose = (fit(x, u, y, learner=GMMLearner(8, tolerance=t))[1] for t in (1e-8, 1e-2))
    assert tight["rounds"] > loose["rounds"]
    floored = fit(x, u, y, learner=dataclasses.replace(GMMLearner(components=1), floor=1.0))[0].model
    assert np.diag(floored.covs[0]).min() > 1.9
