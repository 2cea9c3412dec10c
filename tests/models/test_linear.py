from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge

from fakes import as_dataset, as_trajectory
from forethought.models.linear import LinearLearner
from forethought.testing import check_model
from forethought.types import Spec, UserError
from poor import CASES, SPEC, all_finite, episode

NOW = jnp.zeros((), jnp.int32)
PLAIN = Spec(2, 1)
DEFAULT = LinearLearner()
predict = eqx.filter_jit(lambda model, x, u: model.predict(x, u, NOW))
means = eqx.filter_jit(lambda model, xs, us: jax.vmap(lambda x, u: model.predict(x, u, NOW).mean)(xs, us))
stds = eqx.filter_jit(lambda model, xs, us: jax.vmap(lambda x, u: model.predict(x, u, NOW).std)(xs, us))
beliefs = eqx.filter_jit(lambda model, key, x, u: jax.vmap(lambda b: b.predict(x, u, NOW).mean)(model.draw(key, 5000)))
A = np.array([[1.0, 0.1], [-0.2, 0.9]])
B = np.array([[0.0], [0.5]])


def system(rows: int, noise: float = 0.1, seed: int = 0):
    """y = A x + B u + 1 + noise."""
    random = np.random.default_rng(seed)
    x, u = 1.0 + 2.0 * random.normal(size=(rows, 2)), random.uniform(-1, 1, (rows, 1))
    return x, u, x @ A.T + u @ B.T + 1.0 + noise * random.normal(size=(rows, 2))


def fit(x, u, y, learner: LinearLearner = DEFAULT, spec: Spec = PLAIN, **flags):
    fitted = learner.init(spec, jr.key(0))
    return learner.fit(fitted, as_dataset(spec, as_trajectory(x, u, y, **flags)), jr.key(1))


def squares(z: np.ndarray) -> np.ndarray:
    """z with all products of two of its columns."""
    first, second = np.triu_indices(z.shape[1])
    return np.concatenate([z, z[:, first] * z[:, second]], axis=1)


def by_hand(x, u, y, precision: float, quadratic: bool):
    """Mean, variance and weights' covariance by dense formulas with an explicit column of ones, unpenalised."""
    z, change = np.concatenate([x, u], 1), y - x
    z = (z - z.mean(0)) / z.std(0)
    psi = squares(z) if quadratic else z
    psi = (psi - psi.mean(0)) / psi.std(0)
    ones = np.concatenate([np.ones((len(z), 1)), psi], 1)
    prior = precision * np.diag([0.0] + [1.0] * psi.shape[1])
    inverse = np.linalg.inv(ones.T @ ones + prior)
    weights = inverse @ ones.T @ change
    smoother = ones @ inverse @ ones.T
    left = np.eye(len(z)) - smoother
    variance = np.sum((left @ change) ** 2, axis=0) / np.trace(left @ left)
    return x + ones @ weights, variance * (1.0 + np.diag(smoother))[:, None]


@pytest.mark.parametrize("basis", ["linear", "quadratic"])
@pytest.mark.parametrize("precision", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("rows", [8, 60])
def test_mean_and_variance_are_those_of_the_dense_formulas(basis, precision, rows) -> None:
    x, u, y = system(rows)
    model = fit(x, u, y, LinearLearner(basis, precision))[0].model
    mean, variance = by_hand(x, u, y, precision, basis == "quadratic")
    np.testing.assert_allclose(means(model, x, u), mean, rtol=1e-7)
    np.testing.assert_allclose(stds(model, x, u) ** 2, variance, rtol=1e-6)


@pytest.mark.parametrize("j", [0, 1])
def test_weights_are_scikit_learns(j) -> None:
    x, u, y = system(50)
    z = np.concatenate([x, u], 1)
    z = (z - z.mean(0)) / z.std(0)
    theirs = BayesianRidge(max_iter=1000, tol=1e-12).fit(z, (y - x)[:, j])
    model = fit(x, u, y, LinearLearner(precision=theirs.lambda_ / theirs.alpha_))[0].model
    unit = float(model.belief.outputs.std[j])
    np.testing.assert_allclose(unit * model.belief.weights[:, j], theirs.coef_, rtol=1e-6)
    # Theirs is for the noise 1/alpha, which they estimate in another way.
    np.testing.assert_allclose(model.root.T @ model.root, theirs.sigma_ * theirs.alpha_, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("precision", [1e-6, 1e-3])
def test_a_linear_system_without_noise_is_found_exactly(precision) -> None:
    model = fit(*system(20, noise=0.0), LinearLearner(precision=precision))[0].model
    x, u, y = system(50, noise=0.0, seed=3)
    np.testing.assert_allclose(means(model, x, u), y, rtol=1e-3, atol=300 * precision)
    assert np.max(stds(model, x, u)) < 1e-3


def test_products_are_found_by_the_quadratic_basis() -> None:
    random = np.random.default_rng(0)
    x, u = random.normal(size=(80, 2)), random.normal(size=(80, 1))
    y = x + np.stack([x[:, 0] * u[:, 0], x[:, 1] ** 2], 1)
    learned = [fit(x, u, y, LinearLearner(basis))[0].model for basis in ("linear", "quadratic")]
    wrong = [np.abs(np.asarray(means(model, x, u)) - y).mean() for model in learned]
    assert wrong[1] < 1e-3 < 0.1 < wrong[0]


def waves(z):
    return jnp.concatenate([jnp.sin(z), jnp.cos(z)])


def test_a_basis_of_ones_own() -> None:
    x, u, _ = system(100)
    y = x + np.sin(2.0 * (x - x.mean(0)) / x.std(0))
    own = lambda z: jnp.sin(2.0 * z)
    model = fit(x, u, y, LinearLearner(own))[0].model
    np.testing.assert_allclose(means(model, x, u), y, atol=1e-3)
    assert fit(x, u, y, LinearLearner(waves))[0].model.belief.weights.shape == (6, 2)


@pytest.mark.parametrize("basis", ["linear", "quadratic"])
def test_drawn_weights_have_the_posteriors_mean_and_covariance(basis) -> None:
    x, u, y = system(25)
    model = fit(x, u, y, LinearLearner(basis))[0].model
    at, push = np.array([4.0, -3.0]), np.array([0.9])
    here = predict(model, at, push)
    drawn = np.asarray(beliefs(model, jr.key(0), at, push))
    noise = np.asarray(model.belief.noise * model.belief.outputs.std)
    # What widens the prediction beyond the noise is the spread of the beliefs.
    doubt = np.sqrt(np.asarray(here.std) ** 2 - noise**2)
    np.testing.assert_allclose(drawn.mean(0), here.mean, atol=4 * doubt.max() / np.sqrt(5000))
    np.testing.assert_allclose(drawn.std(0), doubt, rtol=0.03)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05
    weights = np.asarray(model.draw(jr.key(1), 5000).weights)[:, :, 0]
    expected = float(model.belief.noise[0]) ** 2 * np.asarray(model.root.T @ model.root)
    units = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(np.cov(weights.T) / np.outer(units, units), expected / np.outer(units, units), atol=0.05)


def test_a_drawn_belief_has_no_doubt_left() -> None:
    x, u, y = system(25)
    model = fit(x, u, y)[0].model
    belief = jax.tree.map(lambda v: v[3], model.draw(jr.key(0), 5))
    far, near = predict(belief, np.array([50.0, 50.0]), u[0]), predict(belief, x[0], u[0])
    np.testing.assert_allclose(far.std, near.std)
    assert (np.asarray(predict(model, np.array([50.0, 50.0]), u[0]).std) > 3 * np.asarray(far.std)).all()


@pytest.mark.parametrize(
    ("rows", "precision"), [(5, 1e-3), (6, 1e-6), pytest.param(10, 1e-3, marks=pytest.mark.slow), (50, 1e-3)]
)
def test_noise_is_right_on_average_however_few_the_rows(rows, precision) -> None:
    learner, found, inside = LinearLearner(precision=precision), [], []
    for seed in range(120):
        x, u, y = system(rows, noise=0.3, seed=seed)
        model = fit(x, u, y, learner)[0].model
        found.append(np.asarray(model.belief.noise * model.belief.outputs.std) ** 2)
        a, b, c = system(1, noise=0.3, seed=1000 + seed)
        here = predict(model, a[0], b[0])
        inside.append(((c[0] - here.mean) / here.std) ** 2)
    # Four standard errors of the mean of chi-squared variables, two outputs each.
    assert abs(np.mean(found) / 0.09 - 1.0) < 4.0 * np.sqrt(2.0 / ((rows - 4) * 2 * len(found)))
    if rows >= 10:
        assert 0.3 < np.median(inside) < 0.65  # 0.455 for a Gaussian


def test_with_as_many_weights_as_rows_everything_may_be_noise() -> None:
    x, u, y = system(4)
    model = fit(x, u, y, LinearLearner("quadratic", precision=1e-3))[0].model
    assert (np.asarray(model.belief.noise) > 0.05).all()
    model = fit(x, u, y, LinearLearner("quadratic", precision=1e-9))[0].model
    np.testing.assert_allclose(model.belief.noise, 1.0)


@pytest.mark.parametrize("basis", ["linear", "quadratic"])
def test_units_and_the_order_of_states_do_not_matter(basis) -> None:
    x, u, y = system(40)
    by, by_u = np.array([1e6, 1e-6]), 1e3
    learner = LinearLearner(basis)
    one, scaled, turned = (
        fit(*rows, learner)[0].model for rows in ((x, u, y), (by * x, by_u * u, by * y), (x[:, ::-1], u, y[:, ::-1]))
    )
    at, push = np.array([0.5, -1.2]), np.array([0.3])
    here, there, back = (
        predict(one, at, push),
        predict(scaled, by * at, by_u * push),
        predict(turned, at[::-1].copy(), push),
    )
    np.testing.assert_allclose(there.mean, by * here.mean, rtol=1e-8)
    np.testing.assert_allclose(there.std, by * here.std, rtol=1e-7)
    np.testing.assert_allclose(back.mean[::-1], here.mean, rtol=1e-8)
    np.testing.assert_allclose(back.std[::-1], here.std, rtol=1e-7)


def test_angles_and_extras() -> None:
    random = np.random.default_rng(0)
    x, u = random.uniform(-np.pi, np.pi, (100, 1)), random.uniform(-1, 1, (100, 1))
    y = (x + 0.3 * u + np.pi) % (2 * np.pi) - np.pi
    spec = Spec(1, 1, extras=2, angles=(0,))
    reward, ended = np.cos(x[:, 0]), x[:, 0] > 100.0
    model = fit(x, u, y, LinearLearner(), spec, reward=reward, terminated=ended)[0].model
    found = predict(model, np.array([3.1]), np.array([1.0]))
    np.testing.assert_allclose(found.mean, [3.4 - 2 * np.pi, np.cos(3.1), 0.0], atol=1e-3)


@pytest.mark.parametrize("learner", [LinearLearner(), LinearLearner("quadratic"), LinearLearner(waves)])
def test_shapes_and_dtypes_never_change(learner) -> None:
    begun = learner.init(PLAIN, jr.key(0))
    after, _ = fit(*system(30), learner)
    look = lambda tree: [(v.shape, v.dtype, v.weak_type) for v in jax.tree.leaves(tree)]
    assert jax.tree.structure(after) == jax.tree.structure(begun)
    assert look(after) == look(begun)
    assert {v.dtype for v in jax.tree.leaves(begun)} == {jnp.dtype(jnp.float64)}


def test_check_model() -> None:
    check_model(LinearLearner())
    check_model(LinearLearner("quadratic"), PLAIN)


@pytest.mark.parametrize("basis", ["linear", "quadratic"])
@pytest.mark.parametrize("case", CASES)
def test_poor_data(case, basis) -> None:
    learner = LinearLearner(basis)
    begun = learner.init(SPEC, jr.key(0))
    data = as_dataset(SPEC, episode(case))
    after, metrics = learner.fit(begun, data, jr.key(1))
    assert all_finite(after)
    found = predict(after.model, np.array([0.1, -0.2]), np.array([0.3]))
    assert all_finite((found.mean, found.std))
    assert (np.asarray(found.std) > 0).all()
    assert metrics["failed"] == (int(data.count) - metrics["left_out"] < 2)
    if metrics["failed"]:
        assert after is begun


@pytest.mark.parametrize(
    ("basis", "match"),
    [
        (lambda z: z[0], r"gave an array of shape \(\) for 3 scaled features; expected a vector"),
        (lambda z: jnp.outer(z, z), r"gave an array of shape \(3, 3\)"),
        (lambda z: z[:0], r"gave an array of shape \(0,\)"),
        (lambda z: z.reshape(7), r"failed for 3 scaled features: TypeError"),
        (lambda z: "three", r"failed for 3 scaled features"),
    ],
)
def test_a_basis_that_is_none_is_refused(basis, match) -> None:
    with pytest.raises(UserError, match=match):
        LinearLearner(basis).init(PLAIN, jr.key(0))


def test_a_basis_that_is_not_known_is_refused() -> None:
    learner = LinearLearner()
    object.__setattr__(learner, "basis", "cubic")  # past the type checks of the tests
    with pytest.raises(UserError, match=r"is 'cubic'; it must be linear, quadratic or a function"):
        learner.init(PLAIN, jr.key(0))


def test_a_basis_that_gives_nan_fails_and_says_so() -> None:
    learner = LinearLearner(jnp.log)
    begun = learner.init(PLAIN, jr.key(0))
    after, metrics = learner.fit(begun, as_dataset(PLAIN, as_trajectory(*system(20))), jr.key(0))
    assert after is begun
    assert metrics["failed"]
    assert "not finite" in metrics["says"]


@pytest.mark.parametrize(("n", "m", "match"), [(2, 2, "actions of size 2"), (3, 1, "states of size 3")])
def test_data_of_another_system_are_refused(n, m, match) -> None:
    learner, x = LinearLearner(), np.zeros((10, n))
    other = as_dataset(Spec(n, m), as_trajectory(x, np.zeros((10, m)), x))
    with pytest.raises(UserError, match=match):
        learner.fit(learner.init(PLAIN, jr.key(0)), other, jr.key(0))


def test_it_needs_64_bits() -> None:
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(UserError, match=r"Linear regression computes in float64.*jax_enable_x64"):
            LinearLearner().init(PLAIN, jr.key(0))
    finally:
        jax.config.update("jax_enable_x64", True)
