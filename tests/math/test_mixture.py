from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from forethought.math.gaussian import DiagonalGaussian, wrapped
from forethought.math.mixture import MixtureOfGaussians

KINDS = ["diagonal", "full"]


def mixture(kind: str, count: int = 3, k: int = 2, dtype=np.float64, seed: int = 0) -> MixtureOfGaussians:
    """Components far enough apart for every one to matter."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(count, 3.0))
    means, stds = 2.0 * rng.normal(size=(count, k)), rng.uniform(0.2, 1.0, (count, k))
    factors = stds
    if kind == "full":
        factors = np.tril(rng.normal(size=(count, k, k)), -1) + np.stack([np.diag(s) for s in stds])
    return MixtureOfGaussians(*(jnp.asarray(v, dtype) for v in (np.log(weights), means, factors)))


def covariances(m: MixtureOfGaussians) -> np.ndarray:
    f = np.asarray(m.factors, float)
    return np.stack([np.diag(s**2) for s in f]) if f.ndim == 2 else f @ f.transpose(0, 2, 1)


def scipy_density(m: MixtureOfGaussians, y) -> np.ndarray:
    """sum_k w_k N(y), each factor by scipy."""
    parts = zip(np.exp(np.asarray(m.log_weights)), np.asarray(m.means), covariances(m), strict=True)
    return sum(w * stats.multivariate_normal(mean, cov).pdf(y) for w, mean, cov in parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "k"), [(1, 1), (1, 3), (3, 1), (4, 3)])
def test_log_prob_is_scipys(kind, count, k) -> None:
    m = mixture(kind, count, k)
    y = np.random.default_rng(1).normal(size=(20, k))
    np.testing.assert_allclose(jax.vmap(m.log_prob)(y), np.log([scipy_density(m, v) for v in y]), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_density_integrates_to_one(kind, count) -> None:
    grid = jnp.linspace(-20.0, 20.0, 40_001)[:, None]
    density = jnp.exp(jax.vmap(mixture(kind, count, 1).log_prob)(grid))
    np.testing.assert_allclose(np.trapezoid(np.asarray(density), np.asarray(grid[:, 0])), 1.0, rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_samples_have_the_mean_and_covariance_that_it_says(kind, count) -> None:
    m, draws = mixture(kind, count), 100_000
    found = np.asarray(jax.jit(jax.vmap(m.sample))(jr.split(jr.key(0), draws)))
    # Five standard errors, of the mean as it is said and of the covariance as it is found.
    assert np.all(np.abs(found.mean(0) - m.mean) < 5.0 * np.asarray(m.std) / np.sqrt(draws))
    products = (found - m.mean)[:, :, None] * (found - m.mean)[:, None, :]
    assert np.all(np.abs(products.mean(0) - m.covariance) < 5.0 * products.std(0) / np.sqrt(draws))
    np.testing.assert_allclose(np.sqrt(np.diag(m.covariance)), m.std, rtol=1e-12)


def test_each_component_is_drawn_by_its_weight() -> None:
    weights = np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        m = MixtureOfGaussians(jnp.log(weights), jnp.arange(4.0)[:, None], jnp.full((4, 1), 1e-3))
    found = np.rint(np.asarray(jax.jit(jax.vmap(m.sample))(jr.split(jr.key(1), 40_000)))[:, 0]).astype(int)
    shares = np.bincount(found, minlength=4) / 40_000
    assert shares[1] == 0.0
    np.testing.assert_allclose(shares, weights, atol=0.015)
    assert np.isfinite(m.log_prob(jnp.array([1.0]))), "a component of weight 0 spoils nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_full_is_diagonal_when_off_diagonals_are_zero(kind) -> None:
    flat = mixture("diagonal", 3, 4)
    whole = MixtureOfGaussians(flat.log_weights, flat.means, jax.vmap(jnp.diag)(flat.factors))
    y = jnp.asarray(np.random.default_rng(0).normal(size=4))
    for of in (lambda m: m.log_prob(y), lambda m: m.sample(jr.key(3)), lambda m: m.std, lambda m: m.covariance):
        np.testing.assert_allclose(of(whole), of(flat), rtol=1e-12, atol=1e-14)


def test_one_component_is_the_gaussian() -> None:
    mean, std, y = jnp.array([0.3, -1.0]), jnp.array([0.2, 2.0]), jnp.array([0.1, 0.4])
    one = MixtureOfGaussians(jnp.zeros(1), mean[None], std[None])
    plain = DiagonalGaussian(mean, std)
    np.testing.assert_allclose(one.log_prob(y), plain.log_prob(y), rtol=1e-14)
    np.testing.assert_array_equal(one.mean, plain.mean)
    np.testing.assert_allclose(one.std, plain.std, rtol=1e-14)


@pytest.mark.parametrize("far", [1e3, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_away_the_logarithm_is_still_a_number_and_so_is_its_slope(far, dtype) -> None:
    m = mixture("diagonal", dtype=dtype)
    y = jnp.full((2,), far, dtype)
    value, slope = jax.value_and_grad(m.log_prob)(y)
    assert np.isfinite(value)
    assert value < -1e3
    assert np.all(np.isfinite(slope))
    assert np.all(np.asarray(slope) < 0), "it points back to the components"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_has_the_dtype_of_the_means(kind, dtype) -> None:
    m = mixture(kind, dtype=dtype)
    y = jnp.zeros(2, dtype)
    for value in (m.mean, m.std, m.covariance, m.sample(jr.key(0)), m.log_prob(y)):
        assert value.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_no_numbers_give_no_sample(kind) -> None:
    m = mixture(kind)
    m = MixtureOfGaussians(jnp.full(3, jnp.nan), m.means, m.factors)
    assert np.all(np.isnan(m.sample(jr.key(0))))
    assert np.all(np.isnan(m.mean))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_that_share_a_key_choose_the_same_component(kind) -> None:
    m = mixture(kind, 4)
    near = MixtureOfGaussians(m.log_weights + 1e-7, m.means + 1e-6, m.factors)
    keys = jr.split(jr.key(0), 500)
    a, b = (jax.vmap(v.sample)(keys) for v in (m, near))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_solver_is_called_for_a_sample(kind) -> None:
    """A custom call inside a plan is not vectorised with the rest."""
    m = mixture(kind)
    text = jax.jit(jax.vmap(m.sample)).lower(jr.split(jr.key(0), 8)).compile().as_text()
    assert "custom-call" not in (text or "")


@pytest.mark.parametrize("kind", KINDS)
def test_modes_of_an_angle_more_than_half_a_turn_apart_keep_their_density(kind) -> None:
    """Either side of pi: with the turn nearest to the mean of all, the smaller one would have next to none."""
    factors = jnp.full((2, 1), 0.1) if kind == "diagonal" else jnp.full((2, 1, 1), 0.1)
    both = MixtureOfGaussians(jnp.log(jnp.asarray([0.9, 0.1])), jnp.asarray([[-2.5], [2.5]]), factors)
    said = wrapped(both, (0,))
    at = np.linspace(-np.pi, np.pi, 4001)
    density = np.exp(jax.vmap(lambda a: said.log_prob(a[None]))(jnp.asarray(at)))
    np.testing.assert_allclose(np.trapezoid(density, at), 1.0, rtol=1e-4)
    np.testing.assert_allclose(
        said.log_prob(jnp.asarray([2.5])), np.log(0.1) - np.log(0.1 * np.sqrt(2 * np.pi)), rtol=1e-4
    )
    np.testing.assert_allclose(
        said.log_prob(jnp.asarray([2.5 - 2 * np.pi])), said.log_prob(jnp.asarray([2.5])), rtol=1e-4
    )
