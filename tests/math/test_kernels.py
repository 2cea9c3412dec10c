"""Covariance functions of distance: against their definitions, and at the one point where autodiff divides by zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.math.kernels import Kind, profile, slope, square_distances

KINDS: list[Kind] = ["se", "matern32", "matern52"]
R2 = np.array([0.0, 1e-12, 1e-3, 0.3, 1.0, 7.0, 90.0])


def defined(kind: Kind, r2: np.ndarray) -> np.ndarray:
    """Rasmussen & Williams, equations 4.9 and 4.17."""
    r = np.sqrt(r2)
    return {
        "se": np.exp(-(r**2) / 2),
        "matern32": (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
        "matern52": (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_profile_is_the_definition(kind: Kind):
    np.testing.assert_allclose(profile(kind, jnp.asarray(R2)), defined(kind, R2), rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slope_is_the_derivative_by_the_squared_distance(kind: Kind):
    r2 = R2[2:]
    step = 1e-5 * r2
    differences = (defined(kind, r2 + step) - defined(kind, r2 - step)) / (2 * step)
    np.testing.assert_allclose(slope(kind, jnp.asarray(r2)), differences, rtol=1e-7)


@pytest.mark.parametrize(("kind", "at_zero"), [("se", -0.5), ("matern32", -1.5), ("matern52", -5 / 6)])
def test_the_derivative_at_zero_is_the_limit(kind: Kind, at_zero: float):
    assert float(slope(kind, jnp.zeros(()))) == pytest.approx(at_zero, rel=1e-15)
    assert float(jax.grad(lambda r2: profile(kind, r2))(jnp.zeros(()))) == pytest.approx(at_zero, rel=1e-15)
    forward = jax.jvp(lambda r2: profile(kind, r2), (jnp.zeros(()),), (jnp.ones(()),))[1]
    assert float(forward) == pytest.approx(at_zero, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_by_position_are_finite_where_two_points_meet(kind: Kind):
    z = jnp.asarray([0.3, -0.2])
    curvature = jax.hessian(lambda v: profile(kind, jnp.sum((v - z) ** 2)))(z)
    np.testing.assert_allclose(curvature, 2 * float(slope(kind, jnp.zeros(()))) * np.eye(2), atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_dtype_is_kept(kind: Kind, dtype: jnp.dtype):
    r2 = jnp.asarray(R2, dtype)
    assert profile(kind, r2).dtype == dtype
    assert slope(kind, r2).dtype == dtype
    assert jax.grad(lambda v: jnp.sum(profile(kind, v)))(r2).dtype == dtype


@pytest.mark.parametrize("origin", [0.0, 1e6])
def test_distances_agree_with_pairs_and_survive_an_offset(origin: float):
    random = np.random.default_rng(0)
    a, b, lengths = random.normal(size=(5, 3)), random.normal(size=(4, 3)), np.array([0.5, 1.0, 3.0])
    a, b = a + origin, b + origin
    pairs = np.sum(((a[:, None] - b[None]) / lengths) ** 2, axis=-1)
    found = square_distances(jnp.asarray(a), jnp.asarray(b), jnp.log(lengths))
    np.testing.assert_allclose(found, pairs, rtol=1e-11 if origin == 0.0 else 1e-8)


def test_no_distance_is_negative():
    z = jnp.asarray(np.random.default_rng(1).normal(size=(200, 4)))
    assert float(jnp.min(square_distances(z, z, jnp.zeros(4)))) >= 0.0
