from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from forethought.math.features import (
    Waves,
    cosine,
    draw_waves,
    heights,
    power_of_two,
    profile_of_stretched,
    stretch,
)
from forethought.math.kernels import profile, slope

KINDS = ["se", "matern32", "matern52"]


@pytest.mark.parametrize("compiled", [False, True])  # the compiler once made t - ((t + c) - c) nought
def test_the_power_of_two_is_numpys(compiled) -> None:
    t = np.concatenate([np.linspace(-999.0, 0.0, 20001), [-0.5, -1.5, -2.5, 0.0, 1.0, 0.3]])
    found = np.asarray((jax.jit(power_of_two) if compiled else power_of_two)(jnp.asarray(t)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 2.0**t, rtol=1e-13)


@pytest.mark.parametrize("t", [-1001.0, -1e6, -1e300, -np.inf])
def test_a_power_that_is_too_small_is_next_to_nothing(t) -> None:
    assert 0.0 <= float(power_of_two(jnp.asarray(t))) < 1e-300


def test_a_power_of_what_is_no_number_is_none() -> None:
    assert np.isnan(float(power_of_two(jnp.asarray(np.nan))))


def test_the_derivative_of_the_power_is_exact() -> None:
    t = jnp.linspace(-20.0, 0.0, 101)
    np.testing.assert_allclose(jax.vmap(jax.grad(power_of_two))(t), np.log(2.0) * 2.0 ** np.asarray(t), rtol=1e-8)


@pytest.mark.parametrize("turns", [0.0, 0.25, 0.5, -0.5, 1.0, 3.75, -7.3])
def test_the_cosine_is_numpys_at_these_turns(turns) -> None:
    np.testing.assert_allclose(cosine(jnp.float32(turns)), np.cos(2 * np.pi * turns), atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_cosine_is_numpys_to_float32(compiled) -> None:
    turns = np.linspace(-3.0, 3.0, 10001).astype(np.float32)
    found = np.asarray((jax.jit(cosine) if compiled else cosine)(jnp.asarray(turns)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.cos(2 * np.pi * turns.astype(float)), atol=3e-6)


def test_the_derivative_of_the_cosine_is_a_sine() -> None:
    turns = jnp.linspace(-2.0, 2.0, 102)  # none is half a turn from a whole one, where the polynomial ends
    expected = -2 * np.pi * np.sin(2 * np.pi * np.asarray(turns))
    np.testing.assert_allclose(jax.vmap(jax.grad(cosine))(turns), expected, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_profile_is_the_profile(kind) -> None:
    r = np.concatenate([[0.0, 1e-9, 1e-4], np.linspace(0.01, 12.0, 1001)])
    found = profile_of_stretched(kind, jnp.asarray((stretch(kind) * r) ** 2))
    np.testing.assert_allclose(found, profile(kind, jnp.asarray(r**2)), rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_profile_has_the_slope_of_the_profile(kind) -> None:
    r2 = jnp.asarray([1e-6, 0.01, 0.5, 2.0, 9.0])
    found = jax.vmap(jax.grad(lambda v: profile_of_stretched(kind, stretch(kind) ** 2 * v)))(r2)
    np.testing.assert_allclose(found, slope(kind, r2), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_profile_is_flat_where_it_begins(kind) -> None:
    gradient = jax.grad(lambda x: profile_of_stretched(kind, x**2))(0.0)
    assert float(gradient) == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waves", [1, 16])
def test_functions_have_the_covariance_of_the_kernel_whatever_the_number_of_waves(kind, waves) -> None:
    z = np.array([[0.0, 0.0], [0.3, 0.0], [0.7, -0.7], [1.0, 2.0], [5.0, 5.0]])
    drawn = draw_waves(kind, np.random.default_rng(1), (20_000,), waves, 2)
    f = np.stack([heights(Waves(*one), z) for one in zip(*drawn, strict=True)])
    expected = np.asarray(profile(kind, jnp.asarray(np.sum((z[:, None] - z[None]) ** 2, -1))))
    products = f[:, :, None] * f[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(f))
    assert np.all(np.abs(f.mean(axis=0)) < 4.5 * f.std(axis=0) / np.sqrt(len(f)))
    assert np.all(np.abs(products.mean(axis=0) - expected) < 4.5 * error)


def test_values_at_one_point_are_normal() -> None:
    drawn = draw_waves("se", np.random.default_rng(2), (20_000,), 16, 1)
    f = np.stack([heights(Waves(*one), np.ones((1, 1))) for one in zip(*drawn, strict=True)])
    # A wave with a normal weight and a fixed amplitude would have heavier tails: here the fourth moment is 3.
    assert abs(np.mean(f**4) - 3.0) < 4.5 * np.std(f**4) / np.sqrt(f.size)


def test_functions_are_drawn_in_float64_and_by_the_generator() -> None:
    one, same, other = (draw_waves("se", np.random.default_rng(k), (2,), 4, 3) for k in (0, 0, 1))
    assert all(leaf.dtype == np.float64 for leaf in one)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
