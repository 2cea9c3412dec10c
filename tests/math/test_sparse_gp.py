"""The sparse Gaussian process: the exact one where the inducing points are the data, and a bound everywhere else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from forethought.math import gp_condition, sparse_gp
from forethought.math.gp import Hyper, Rows, covariance
from forethought.math.gp_host import Table, exact, in_use, pack, sparse
from forethought.math.kernels import Kind
from forethought.math.sparse_gp import choose_inducing

condition = gp_condition.condition
sparse_condition = sparse_gp.sparse_condition
inducing_moments = sparse_gp.inducing_moments

KINDS: list[Kind] = ["se", "matern32", "matern52"]
HYPER = Hyper(jnp.log(jnp.asarray([0.5, 0.8])), jnp.log(jnp.asarray(1.3)), jnp.log(jnp.asarray(0.4)))
THETA = pack(HYPER)


def drawn(n: int, seed: int = 0, repeats: bool = False) -> Rows:
    """Rows of a smooth function; with repeats, as if some had been merged."""
    random = np.random.default_rng(seed)
    z = random.uniform(-2.0, 2.0, (n, 2))
    y = np.sin(2 * z[:, 0]) + z[:, 1] ** 2 / 4 + 0.2 * random.normal(size=n)
    count = random.integers(1, 4, n) * 1.0 if repeats else np.ones(n)
    return Rows(jnp.asarray(z), jnp.asarray(y), jnp.asarray(count), jnp.asarray(2.0 if repeats else 0.0))


def value(kind: Kind, rows: Rows, inducing: np.ndarray, theta: np.ndarray = THETA) -> float:
    """Minus the bound."""
    found = sparse(kind, in_use(rows), inducing)(theta)
    assert found is not None
    return found[0]


def dense_bound(kind: Kind, table: Table, inducing: np.ndarray) -> float:
    """Titsias' bound from its definition: log N(y; 0, Q + D) - tr(D^-1 (K - Q)) / 2, for rows seen once."""
    z, points = jnp.asarray(table.z), jnp.asarray(inducing)
    k_uf = np.asarray(covariance(kind, HYPER, points, z))
    k_uu = np.asarray(covariance(kind, HYPER, points, points))
    noise = float(np.exp(2 * HYPER.log_noise))
    k_uu = k_uu + 1e-10 * float(np.exp(2 * HYPER.log_signal)) * np.eye(len(points))
    q = k_uf.T @ np.linalg.solve(k_uu, k_uf)
    fit = multivariate_normal(cov=q + noise * np.eye(len(q))).logpdf(table.y)  # pyright: ignore
    return float(fit) - 0.5 * (len(q) * float(np.exp(2 * HYPER.log_signal)) - np.trace(q)) / noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "repeats"), [(40, False), (40, True), (90, True)])
def test_with_all_inputs_for_inducing_points_the_bound_is_the_likelihood(kind: Kind, n: int, repeats: bool):
    rows = drawn(n, repeats=repeats)
    found, expected = sparse(kind, in_use(rows), np.asarray(rows.z))(THETA), exact(kind, in_use(rows))(THETA)
    assert found is not None
    assert expected is not None
    # what 1e-10 s^2 of jitter costs: at most n s^2 / (2 sigma^2) times as much
    assert 0.0 <= found[0] - expected[0] < n * 3 * 0.5e-10 * (1.3 / 0.4) ** 2
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_its_definition(kind: Kind):
    rows, inducing = drawn(40), np.random.default_rng(1).uniform(-2, 2, (7, 2))
    assert -value(kind, rows, inducing) == pytest.approx(dense_bound(kind, in_use(rows), inducing), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("repeats", [False, True])
def test_the_bound_is_below_the_likelihood_for_any_points(kind: Kind, seed: int, repeats: bool):
    rows = drawn(40, seed, repeats)
    likelihood = exact(kind, in_use(rows))(THETA)
    assert likelihood is not None
    assert value(kind, rows, np.random.default_rng(seed).normal(size=(1 + 5 * seed, 2))) > likelihood[0]


@pytest.mark.parametrize("kind", KINDS)
def test_more_points_never_loosen_the_bound(kind: Kind):
    rows = drawn(40)
    order = choose_inducing(kind, HYPER, rows, 40)
    values = [value(kind, rows, np.asarray(rows.z)[order[:m]]) for m in (1, 5, 10, 20, 40)]
    assert all(np.diff(values) < 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("times", [1.0, 5.0])
def test_the_gradient_agrees_with_differences(kind: Kind, repeats: bool, times: float):
    rows, inducing = drawn(40, repeats=repeats), np.random.default_rng(1).uniform(-2, 2, (8, 2))
    theta = THETA + np.array([np.log(times), np.log(times), 0.0, 0.0])
    found = sparse(kind, in_use(rows), inducing)(theta)
    step = 1e-5
    differences = [
        (value(kind, rows, inducing, theta + step * e) - value(kind, rows, inducing, theta - step * e)) / (2 * step)
        for e in np.eye(4)
    ]
    assert found is not None
    np.testing.assert_allclose(found[1], differences, rtol=1e-6, atol=1e-4)


def test_the_work_arrays_do_not_remember():
    rows = drawn(40)
    objective = sparse("matern52", in_use(rows), np.asarray(rows.z)[:9])
    first = objective(THETA)
    objective(THETA + 0.7)
    again = objective(THETA)
    assert first is not None
    assert again is not None
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_inputs_for_inducing_points_the_posterior_is_exact(kind: Kind):
    rows = drawn(40, repeats=True)
    z = jnp.asarray(np.random.default_rng(2).uniform(-2, 2, (15, 2)))
    k = covariance(kind, HYPER, z, rows.z)
    one, other = condition(kind, HYPER, rows), sparse_condition(kind, HYPER, rows.z, rows)
    assert bool(other.ok)
    np.testing.assert_allclose(k @ other.weights, k @ one.weights, atol=1e-8)
    np.testing.assert_allclose(jnp.sum((k @ other.root.T) ** 2, 1), jnp.sum((k @ one.root.T) ** 2, 1), atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_is_its_definition(kind: Kind):
    rows, points = drawn(40, repeats=True), jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (9, 2)))
    k_uf = np.asarray(covariance(kind, HYPER, points, rows.z))
    k_uu = np.asarray(covariance(kind, HYPER, points, points)) + 1e-10 * 1.3**2 * np.eye(9)
    precision = np.asarray(rows.count) / 0.4**2
    sigma = k_uu + (k_uf * precision) @ k_uf.T
    found = sparse_condition(kind, HYPER, points, rows)
    np.testing.assert_allclose(found.weights, np.linalg.solve(sigma, k_uf @ (precision * rows.y)), rtol=1e-7)
    expected = np.linalg.inv(k_uu) - np.linalg.inv(sigma)
    np.testing.assert_allclose(found.root.T @ found.root, expected, rtol=1e-6, atol=1e-6)


def test_moments_of_u_and_the_posterior_say_the_same():
    rows, points = drawn(40), jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (9, 2)))
    q, posterior = inducing_moments("se", HYPER, points, rows), sparse_condition("se", HYPER, points, rows)
    k = covariance("se", HYPER, rows.z, points)
    s2 = float(jnp.exp(2 * HYPER.log_signal))
    np.testing.assert_allclose(k @ (q.inverse.T @ q.mean), k @ posterior.weights, atol=1e-9)
    # Var f = s^2 - |L^-1 k|^2 + |spread^T L^-1 k|^2
    through = k @ q.inverse.T
    variance = s2 - jnp.sum(through**2, 1) + jnp.sum((through @ q.spread) ** 2, 1)
    np.testing.assert_allclose(variance, s2 - jnp.sum((k @ posterior.root.T) ** 2, 1), atol=1e-9)


@pytest.mark.parametrize("junk", [3.0, np.nan, np.inf])
def test_padding_changes_nothing(junk: float):
    rows, points = drawn(40), jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (9, 2)))
    empty = jnp.arange(40) >= 25
    full = rows._replace(count=jnp.where(empty, 0.0, 1.0))
    wide = full._replace(z=jnp.where(empty[:, None], junk, full.z), y=jnp.where(empty, junk, full.y))
    one, other = sparse_condition("se", HYPER, points, full), sparse_condition("se", HYPER, points, wide)
    np.testing.assert_allclose(other.weights, one.weights, rtol=1e-12)
    np.testing.assert_allclose(other.root, one.root, rtol=1e-12)
    short = Rows(rows.z[:25], rows.y[:25], rows.count[:25], rows.within)
    assert value("se", wide, np.asarray(points)) == value("se", short, np.asarray(points))
    first = choose_inducing("se", HYPER, wide, 9)
    np.testing.assert_array_equal(first, choose_inducing("se", HYPER, full, 9))
    assert np.all(first < 25)


@pytest.mark.parametrize("kind", KINDS)
def test_each_chosen_point_is_the_one_least_known(kind: Kind):
    rows = drawn(40)
    chosen = choose_inducing(kind, HYPER, rows, 8)
    k = np.asarray(covariance(kind, HYPER, rows.z, rows.z))
    for j in range(1, 8):
        some = chosen[:j]
        left = np.diagonal(k) - np.sum(k[some] * np.linalg.solve(k[np.ix_(some, some)], k[some]), axis=0)
        assert left[chosen[j]] == pytest.approx(left.max(), rel=1e-9)


def test_chosen_points_beat_random_ones():
    rows = drawn(200)
    chosen = value("se", rows, np.asarray(rows.z)[choose_inducing("se", HYPER, rows, 15)])
    random = [np.random.default_rng(s).permutation(200)[:15] for s in range(5)]
    assert chosen < min(value("se", rows, np.asarray(rows.z)[one]) for one in random)


@pytest.mark.parametrize(("n", "count"), [(3, 8), (1, 4), (5, 5)])
def test_with_few_rows_some_are_chosen_again(n: int, count: int):
    rows = drawn(40)._replace(count=jnp.asarray((np.arange(40) < n) * 1.0))
    chosen = choose_inducing("se", HYPER, rows, count)
    assert chosen.shape == (count,)
    assert set(chosen.tolist()) == set(range(n))
    posterior = sparse_condition("se", HYPER, rows.z[np.resize(chosen, 9)], rows)
    assert bool(posterior.ok)
    assert all(np.all(np.isfinite(part)) for part in posterior)


def test_rows_at_the_same_place_are_chosen_once_each():
    rows = drawn(40)._replace(z=jnp.zeros((40, 2)))
    assert sorted(choose_inducing("se", HYPER, rows, 40).tolist()) == list(range(40))


@pytest.mark.parametrize("kind", KINDS)
def test_inducing_points_that_coincide_get_jitter_and_never_a_nan(kind: Kind):
    rows = drawn(40)
    points = jnp.concatenate([jnp.zeros((5, 2)), jnp.ones((4, 2))])
    for hyper in (HYPER, HYPER._replace(log_lengths=jnp.full(2, 5.0)), HYPER._replace(log_noise=jnp.asarray(-15.0))):
        for found in (sparse_condition(kind, hyper, points, rows), inducing_moments(kind, hyper, points, rows)):
            assert bool(found.ok)
            assert all(np.all(np.isfinite(part)) for part in found)
        answer = sparse(kind, in_use(rows), np.asarray(points))(pack(hyper))
        assert answer is not None
        assert np.isfinite(answer[0])
        assert np.all(np.isfinite(answer[1]))


@pytest.mark.parametrize("field", ["z", "y"])
def test_numbers_that_are_not_finite_end_in_the_prior_that_says_so(field: str):
    rows = drawn(40)
    rows = rows._replace(**{field: getattr(rows, field).at[3].set(np.nan)})
    points = drawn(40).z[:9]
    found = sparse_condition("se", HYPER, points, rows)
    assert not bool(found.ok)
    assert not np.any(found.weights)
    assert not np.any(found.root)
    moments = inducing_moments("se", HYPER, points, rows)
    assert not bool(moments.ok)
    assert all(np.all(np.isfinite(part)) for part in moments)


def test_sampled_u_have_the_moments():
    rows, points = drawn(40), jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (9, 2)))
    q = inducing_moments("se", HYPER, points, rows)
    v = q.mean[:, None] + q.spread @ jax.random.normal(jax.random.key(0), (9, 200_000), jnp.float64)
    b = jnp.linalg.inv(q.spread @ q.spread.T)
    np.testing.assert_allclose(jnp.cov(v), jnp.linalg.inv(b), atol=0.01)
