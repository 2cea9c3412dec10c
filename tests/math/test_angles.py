"""Angles: on [-pi, pi), the short way round, and predictions of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from forethought.errors import UserError
from forethought.math.angles import checked_angles, wrap, wrap_observation
from forethought.math.gaussian import DiagonalGaussian, Wrapped, wrapped

# The borders, and numbers whose sum with pi rounds to a whole turn.
AWKWARD = np.array([0.0, -0.0, np.pi, -np.pi, np.nextafter(np.pi, 0), np.nextafter(-np.pi, -4), 3 * np.pi, -7 * np.pi])


def many(seed: int = 0) -> np.ndarray:
    """Angles of many turns, the awkward ones among them."""
    return np.concatenate([np.random.default_rng(seed).uniform(-50.0, 50.0, 2000), AWKWARD])


@pytest.mark.parametrize("x64", [False, True])
def test_wrapped_angles_are_inside_and_point_the_same_way(x64):
    with jax.enable_x64(x64):
        given = jnp.asarray(many(), jnp.float64 if x64 else jnp.float32)
        got = wrap(given)
        assert got.dtype == given.dtype
        limit = np.asarray(np.pi, got.dtype)
        assert np.all(np.asarray(got) >= -limit)
        assert np.all(np.asarray(got) < limit)
        tolerance = 1e-13 if x64 else 1e-5
        np.testing.assert_allclose(np.sin(got), np.sin(given), atol=tolerance)
        np.testing.assert_allclose(np.cos(got), np.cos(given), atol=tolerance)


def test_an_angle_that_is_inside_comes_back_bit_for_bit():
    inside = np.random.default_rng(1).uniform(-3.14, 3.14, (1000, 1))
    x = np.concatenate([inside, inside + 7.0], axis=1)
    seen = np.stack([wrap_observation(row, (0,)) for row in x])
    np.testing.assert_array_equal(seen, x)


@pytest.mark.parametrize("turns", [0, 1, -3, 1000])
def test_numpy_and_jax_agree(turns):
    x = many() + 2.0 * np.pi * turns
    with jax.enable_x64(True):
        expected = np.asarray(wrap(jnp.asarray(x)))
    got = wrap_observation(x, tuple(range(len(x))))
    assert got.dtype == np.float64
    # At the border itself either end may come out, a rounding error from each other on the circle.
    np.testing.assert_allclose(np.exp(1j * got), np.exp(1j * expected), atol=1e-12)
    assert np.all(got >= -np.pi)
    assert np.all(got < np.pi)


def test_an_observation_without_angles_is_left_as_it_is():
    x = np.array([9.0, -9.0])
    assert wrap_observation(x, ()) is x


def test_only_the_named_components_are_wrapped_and_the_input_is_kept():
    x = np.array([9.0, 9.0, -9.0])
    got = wrap_observation(x, (0, 2))
    np.testing.assert_allclose(got, [9.0 - 2 * np.pi, 9.0, -9.0 + 2 * np.pi])
    np.testing.assert_array_equal(x, [9.0, 9.0, -9.0])


@pytest.mark.parametrize(
    ("angles", "expected"), [((), ()), ([2, 0], (0, 2)), ((np.int64(1),), (1,)), ((0, 1, 2), (0, 1, 2))]
)
def test_allowed_angles_come_back_in_order(angles, expected):
    got = checked_angles(angles, 3, "a world")
    assert got == expected
    assert all(type(i) is int for i in got)


@pytest.mark.parametrize("angles", [(3,), (-1,), (0, 0), (1.0,), (True,), ("1",), (None,), (10**9,), [0, 2, 0]])
def test_angles_that_name_no_component_are_refused(angles):
    with pytest.raises(UserError, match=r"angles of a world is .*whole numbers from 0 to 2, each at most once"):
        checked_angles(angles, 3, "a world")


@pytest.mark.parametrize("angles", ["12", 1, None])
def test_angles_that_are_no_sequence_are_refused(angles):
    with pytest.raises(UserError, match=r"angles of a world is .*allowed are indices"):
        checked_angles(angles, 3, "a world")


def prediction(mean=(3.0, 1.0, -3.1), std=(0.3, 0.2, 0.4)) -> DiagonalGaussian:
    return DiagonalGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def test_a_prediction_without_angles_is_itself():
    inner = prediction()
    assert wrapped(inner, ()) is inner


def test_mean_and_samples_of_angles_are_on_the_half_open_circle():
    inner = prediction(mean=(3.1, 50.0, -9.0), std=(0.5, 1.0, 30.0))
    got = wrapped(inner, (0, 2))
    assert isinstance(got, Wrapped)
    np.testing.assert_allclose(got.mean, [3.1, 50.0, -9.0 + 2 * np.pi], rtol=1e-6)
    np.testing.assert_array_equal(got.std, inner.std)
    keys = jr.split(jr.key(0), 500)
    y, plain = jax.vmap(got.sample)(keys), jax.vmap(inner.sample)(keys)
    assert np.all(y[:, [0, 2]] >= -np.float32(np.pi))
    assert np.all(y[:, [0, 2]] < np.float32(np.pi))
    assert np.any(plain[:, 0] > np.pi)
    np.testing.assert_array_equal(y[:, 1], plain[:, 1])
    np.testing.assert_allclose(np.cos(y), np.cos(plain), atol=1e-4)


@pytest.mark.parametrize("turn", [-2, -1, 0, 1, 2])
def test_the_density_takes_the_short_way_round(turn):
    # The mean 3.0 + 0.4 lies beyond pi; y lies on the other side of the border.
    mean, std = np.array([3.4, 1.0]), np.array([0.3, 0.2])
    got = wrapped(prediction(mean, std), (0,))
    y = np.array([-3.0, 1.1]) + np.array([2 * np.pi * turn, 0.0])
    expected = stats.norm(mean, std).logpdf([2 * np.pi - 3.0, 1.1]).sum()
    assert float(got.log_prob(jnp.asarray(y, jnp.float32))) == pytest.approx(expected, abs=2e-4)


def test_the_density_of_other_components_is_not_periodic():
    got = wrapped(prediction(), (0,))
    near = got.log_prob(jnp.asarray([3.0, 1.0, -3.1], jnp.float32))
    far = got.log_prob(jnp.asarray([3.0, 1.0, np.pi], jnp.float32))
    assert float(near - far) > 50.0


def test_the_density_integrates_to_one_over_a_turn():
    got = wrapped(DiagonalGaussian(jnp.asarray([3.0]), jnp.asarray([0.4])), (0,))
    grid = np.linspace(-np.pi, np.pi, 4001)
    density = np.exp(jax.vmap(lambda a: got.log_prob(a[None]))(jnp.asarray(grid, jnp.float32)))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-4)


def test_predictions_of_angles_can_be_stacked_and_differentiated():
    both = jax.vmap(lambda m: wrapped(DiagonalGaussian(m, jnp.ones(2)), (1,)))(jnp.asarray([[0.0, 4.0], [1.0, -4.0]]))
    assert both.mean.shape == both.std.shape == (2, 2)
    np.testing.assert_allclose(both.mean[:, 1], [4.0 - 2 * np.pi, -4.0 + 2 * np.pi], rtol=1e-6)


def test_the_derivative_of_an_angle_is_that_of_the_line_everywhere():
    slope = jax.vmap(jax.grad(lambda a: wrap(2.0 * a)))(jnp.asarray(many() / 2.0))
    np.testing.assert_array_equal(slope, 2.0)
