"""The exact Gaussian process: against scikit-learn, against dense algebra on data that were never merged or padded."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from forethought.math import gp, gp_condition
from forethought.math.gp import Hyper, Posterior, Rows, covariance
from forethought.math.gp_host import Table, exact, in_use, pack, unpack
from forethought.math.kernels import Kind

negative_log_likelihood = eqx.filter_jit(gp.negative_log_likelihood)
condition = gp_condition.condition

KINDS: list[Kind] = ["se", "matern32", "matern52"]
HYPER = Hyper(jnp.log(jnp.asarray([1.0, 0.6, 2.0])), jnp.log(jnp.asarray(1.3)), jnp.log(jnp.asarray(0.2)))


def drawn(n: int, f: int = 3, seed: int = 0) -> Rows:
    """Rows of a smooth function, each seen once."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(n, f))
    y = np.sin(z @ np.arange(1.0, f + 1.0)) + 0.2 * random.normal(size=n)
    return Rows(jnp.asarray(z), jnp.asarray(y), jnp.ones(n), jnp.zeros(()))


def padded(rows: Rows, more: int, junk: float = 3.0) -> Rows:
    """With `more` rows of padding that hold junk."""
    wide = lambda v, value: jnp.concatenate([v, jnp.full((more, *v.shape[1:]), value)])
    return Rows(wide(rows.z, junk), wide(rows.y, junk), wide(rows.count, 0.0), rows.within)


def predicted(kind: Kind, hyper: Hyper, rows: Rows, posterior: Posterior, z: jax.Array) -> tuple[Any, Any]:
    """Mean and latent variance at z."""
    k = covariance(kind, hyper, z, rows.z)
    return k @ posterior.weights, jnp.exp(2 * hyper.log_signal) - jnp.sum((k @ posterior.root.T) ** 2, axis=1)


def peer(kind: Kind, rows: Rows) -> Any:
    """scikit-learn's process with the same hyperparameters."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

    lengths: Any = np.exp(HYPER.log_lengths)
    shape = RBF(lengths) if kind == "se" else Matern(lengths, nu={"matern32": 1.5, "matern52": 2.5}[kind])
    kernel = ConstantKernel(float(np.exp(2 * HYPER.log_signal))) * shape + WhiteKernel(
        float(np.exp(2 * HYPER.log_noise))
    )
    process = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None)  # pyright: ignore
    return process.fit(np.asarray(rows.z), np.asarray(rows.y))


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_and_gradient_are_those_of_scikit_learn(kind: Kind):
    rows = drawn(40)
    process = peer(kind, rows)
    value, gradient = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)
    # its parameters are (s^2, l, sigma^2) in logarithms
    expected = np.concatenate([-gradient[1:4], [-2 * gradient[0], -2 * gradient[4]]])
    found, slope, ok = negative_log_likelihood(kind, HYPER, rows)
    assert bool(ok)
    assert float(found) == pytest.approx(-value, rel=1e-12)
    np.testing.assert_allclose(pack(slope), expected, rtol=1e-9, atol=1e-10)
    host = exact(kind, in_use(rows))(pack(HYPER))
    assert host is not None
    assert host[0] == pytest.approx(-value, rel=1e-12)
    np.testing.assert_allclose(host[1], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_scikit_learn(kind: Kind):
    rows, z = drawn(40), np.random.default_rng(5).normal(size=(20, 3))
    mean, std = peer(kind, rows).predict(z, return_std=True)
    ours, variance = predicted(kind, HYPER, rows, condition(kind, HYPER, rows), jnp.asarray(z))
    np.testing.assert_allclose(ours, mean, atol=1e-11)
    np.testing.assert_allclose(variance, std**2 - np.exp(2 * HYPER.log_noise), atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1.0, 30.0])
def test_the_gradient_agrees_with_differences(kind: Kind, times: float):
    rows = drawn(40)._replace(
        count=jnp.asarray(np.random.default_rng(1).integers(1, 4, 40) * 1.0), within=jnp.asarray(2.0)
    )
    theta = pack(HYPER) + np.append(np.full(3, np.log(times)), [0.0, 0.0])
    step = 1e-5
    value = lambda at: float(negative_log_likelihood(kind, jax.tree.map(jnp.asarray, unpack(at)), rows)[0])
    differences = [(value(theta + step * e) - value(theta - step * e)) / (2 * step) for e in np.eye(5)]
    _, gradient, _ = negative_log_likelihood(kind, jax.tree.map(jnp.asarray, unpack(theta)), rows)
    np.testing.assert_allclose(pack(gradient), differences, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_computes_the_same(kind: Kind):
    rows = padded(drawn(40)._replace(count=jnp.asarray(np.arange(40) % 3 + 1.0), within=jnp.asarray(2.0)), 0)
    objective = exact(kind, in_use(rows))
    for shift in (0.0, 0.5, 0.0):  # its work arrays must not remember
        theta = pack(HYPER) + shift
        value, gradient, _ = negative_log_likelihood(kind, jax.tree.map(jnp.asarray, unpack(theta)), rows)
        found = objective(theta)
        assert found is not None
        assert found[0] == pytest.approx(float(value), rel=1e-12)
        np.testing.assert_allclose(found[1], pack(gradient), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [64, 65, 150, 257, 600])
def test_the_host_inverts_matrices_of_every_size(n: int):
    random = np.random.default_rng(n)
    z, y = random.normal(size=(n, 3)), random.normal(size=n)
    theta = np.array([0.3, -0.2, 0.5, 0.1, -1.0])
    squares = ((z[:, None] - z[None]) / np.exp(theta[:3])) ** 2
    k = np.exp(2 * theta[3] - 0.5 * squares.sum(-1))
    inverse = np.linalg.inv(k + np.exp(2 * theta[4]) * np.eye(n))
    p = inverse - np.outer(inverse @ y, inverse @ y)
    by_lengths = [0.5 * np.sum(p * k * squares[..., d]) for d in range(3)]
    found = exact("se", Table(z, y, np.ones(n), 0.0))(theta)
    assert found is not None
    np.testing.assert_allclose(found[1], [*by_lengths, np.sum(p * k), np.exp(2 * theta[4]) * np.trace(p)], rtol=1e-9)


def repeated() -> tuple[Rows, Rows]:
    """The same observations, one row each, and merged."""
    random = np.random.default_rng(3)
    z, count = random.normal(size=(12, 3)), random.integers(1, 5, 12)
    y = [np.sin(z[i].sum()) + 0.3 * random.normal(size=count[i]) for i in range(12)]
    plain = Rows(jnp.asarray(np.repeat(z, count, axis=0)), jnp.concatenate(y), jnp.ones(count.sum()), jnp.zeros(()))
    within = sum(np.sum((one - one.mean()) ** 2) for one in y)
    means = jnp.asarray([one.mean() for one in y])
    merged = Rows(jnp.asarray(z), means, jnp.asarray(count * 1.0), jnp.asarray(within))
    return padded(plain, 40 - len(plain.y)), padded(merged, 28)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_duplicates_have_the_likelihood_of_all_observations(kind: Kind):
    plain, merged = repeated()
    z, y, _, _ = in_use(plain)
    dense = np.asarray(covariance(kind, HYPER, jnp.asarray(z), jnp.asarray(z)))
    dense = dense + np.exp(2 * HYPER.log_noise) * np.eye(len(y))
    value, gradient, _ = negative_log_likelihood(kind, HYPER, merged)
    assert float(value) == pytest.approx(-multivariate_normal(cov=dense).logpdf(y), rel=1e-11)  # pyright: ignore
    np.testing.assert_allclose(
        pack(gradient), pack(negative_log_likelihood(kind, HYPER, plain)[1]), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_merged_duplicates_predict_as_all_observations(kind: Kind):
    plain, merged = repeated()
    z = jnp.asarray(np.random.default_rng(4).normal(size=(9, 3)))
    one = predicted(kind, HYPER, plain, condition(kind, HYPER, plain), z)
    other = predicted(kind, HYPER, merged, condition(kind, HYPER, merged), z)
    np.testing.assert_allclose(other, one, atol=1e-11)


JUNK = [0.0, 3.0, np.nan, np.inf, 1e300]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("junk", JUNK)
def test_padding_is_no_part_of_the_likelihood(kind: Kind, junk: float):
    rows = drawn(28)
    expected = exact(kind, in_use(rows))(pack(HYPER))
    value, gradient, ok = negative_log_likelihood(kind, HYPER, padded(rows, 12, junk))
    assert expected is not None
    assert bool(ok)
    assert float(value) == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(pack(gradient), expected[1], rtol=1e-11, atol=1e-11)
    assert exact(kind, in_use(padded(rows, 12, junk)))(pack(HYPER))[0] == expected[0]  # pyright: ignore


@pytest.mark.parametrize("junk", JUNK)
def test_padding_is_no_part_of_the_posterior(junk: float):
    rows = drawn(28)
    small, large = condition("se", HYPER, rows), condition("se", HYPER, padded(rows, 12, junk))
    np.testing.assert_allclose(large.weights[:28], small.weights, atol=1e-12)
    np.testing.assert_allclose(large.root[:28, :28], small.root, atol=1e-12)
    assert not np.any(large.weights[28:])
    assert not np.any(large.root[28:])
    assert not np.any(large.root[:, 28:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (30, 31), (30, 40)])
def test_rows_taken_in_later_are_as_good_as_all_at_once(kind: Kind, before: int, after: int):
    everything = drawn(40)._replace(count=np.arange(40) % 2 + 1.0)
    upto = lambda n: everything._replace(count=np.where(np.arange(40) < n, everything.count, 0.0))
    first = Rows(*(np.asarray(part)[:after] for part in everything[:3]), everything.within)
    found = gp_condition.append_rows(kind, HYPER, first, condition(kind, HYPER, upto(before)), before)
    expected = condition(kind, HYPER, upto(after))
    assert found is not None
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-12)
    np.testing.assert_allclose(found.root, expected.root, atol=1e-12)


def test_a_row_that_is_known_already_asks_for_a_new_factorisation():
    rows = drawn(10)
    z = np.array(rows.z)
    z[9] = z[8]
    rows = rows._replace(z=z)
    hyper = HYPER._replace(log_noise=np.asarray(-40.0))
    start = condition("se", hyper, rows._replace(count=np.arange(10) < 9.0))
    assert bool(start.ok)
    assert gp_condition.append_rows("se", hyper, rows, start, 9) is None
    again = condition("se", hyper, rows)
    assert bool(again.ok)
    assert float(again.jitter) > 0.0
    assert gp_condition.append_rows("se", hyper, rows, again, 10) is None  # made with jitter


SINGULAR = {
    "the same point": np.zeros((40, 3)),
    "pairs": np.repeat(np.random.default_rng(0).normal(size=(20, 3)), 2, axis=0),
    "a dense line": np.linspace(0, 1, 40)[:, None] * np.ones(3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("z", SINGULAR.values(), ids=SINGULAR.keys())
@pytest.mark.parametrize("log_noise", [-400.0, -20.0])
def test_a_singular_matrix_gets_jitter_and_never_a_nan(kind: Kind, z: np.ndarray, log_noise: float):
    rows = Rows(jnp.asarray(z), jnp.asarray(np.cos(np.arange(40.0))), jnp.ones(40), jnp.zeros(()))
    hyper = HYPER._replace(log_noise=jnp.asarray(log_noise), log_lengths=jnp.full(3, 2.0))
    posterior = condition(kind, hyper, rows)
    assert bool(posterior.ok)
    assert all(np.all(np.isfinite(part)) for part in posterior)
    assert float(posterior.jitter) <= 1e-5 * 1.001 * np.exp(2 * HYPER.log_signal)
    value, gradient, ok = negative_log_likelihood(kind, hyper, rows)
    assert np.all(np.isfinite(pack(gradient)))
    assert bool(ok) == bool(np.isfinite(value))


def test_no_jitter_where_none_is_needed():
    assert float(condition("se", HYPER, drawn(40)).jitter) == 0.0


def test_the_ladder_stops_where_jitter_is_enough():
    rows = Rows(jnp.zeros((40, 3)), jnp.arange(40.0), jnp.ones(40), jnp.zeros(()))
    posterior = condition("se", HYPER._replace(log_noise=jnp.asarray(-400.0)), rows)
    assert float(posterior.jitter) == pytest.approx(1e-10 * float(jnp.exp(2 * HYPER.log_signal)), rel=1e-9)


@pytest.mark.parametrize("broken", ["z", "y", "log_signal", "log_noise", "log_lengths"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_end_in_the_prior_that_says_so(broken: str, number: float):
    rows, hyper = drawn(40), HYPER
    if broken in Rows._fields:
        rows = rows._replace(**{broken: getattr(rows, broken).at[3].set(number)})
    else:
        hyper = hyper._replace(**{broken: jnp.full_like(getattr(hyper, broken), number)})
    if (broken, number) == ("log_lengths", np.inf):  # all inputs alike: singular, but for the noise
        return
    posterior = condition("se", hyper, rows)
    assert not bool(posterior.ok)
    assert not np.any(posterior.weights)
    assert not np.any(posterior.root)


def test_no_rows_are_the_prior():
    rows = drawn(40)._replace(count=jnp.zeros(40))
    posterior = condition("se", HYPER, rows)
    assert bool(posterior.ok)
    assert not np.any(posterior.weights)
    assert not np.any(posterior.root)
    value, gradient, ok = negative_log_likelihood("se", HYPER, rows)
    assert bool(ok)
    assert float(value) == 0.0
    np.testing.assert_array_equal(pack(gradient), np.zeros(5))


def test_a_likelihood_without_a_factor_is_infinite_and_has_no_gradient():
    rows = Rows(jnp.zeros((40, 3)), jnp.arange(40.0), jnp.ones(40), jnp.zeros(()))
    hyper = HYPER._replace(log_noise=jnp.asarray(-400.0))
    value, gradient, ok = negative_log_likelihood("se", hyper, rows)
    assert not bool(ok)
    assert float(value) == np.inf
    assert not np.any(pack(gradient))
    assert exact("se", in_use(rows))(pack(hyper)) is None


def test_everything_is_float64():
    rows = drawn(40)
    value, gradient, _ = negative_log_likelihood("matern52", HYPER, rows)
    posterior = condition("matern52", HYPER, rows)
    for leaf in (value, *gradient, posterior.weights, posterior.root, posterior.jitter):
        assert leaf.dtype == jnp.float64
