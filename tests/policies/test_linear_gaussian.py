"""The linear-Gaussian controller."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.policies.linear_gaussian import Gains, LinearGaussianController
from forethought.types import Box

c, T, n, m = 2, 3, 2, 2


def controller(**changes):
    random = np.random.default_rng(0)
    gains = Gains(
        jnp.asarray(random.normal(size=(c, T, n))),
        jnp.asarray(0.3 * random.normal(size=(c, T, m))),
        jnp.asarray(random.normal(size=(c, T, m, n))),
        jnp.asarray(np.tril(0.1 * random.normal(size=(c, T, m, m)))),
    )
    given = {
        "gains": gains,
        "starts": jnp.asarray([[0.0, 0.0], [3.0, 1.0]]),
        "widths": jnp.ones(n),
        "anchored": jnp.asarray(False),
        "only": jnp.asarray(-1, jnp.int32),
        "noise": jnp.asarray(0.0),
        "actions": Box(np.full(m, -1.0), np.full(m, 1.0)),
    }
    return LinearGaussianController(**given | changes)


def act(policy, x, t=0, x0=None, key=0):
    carry = policy.init(jnp.asarray(x if x0 is None else x0), jr.key(key))
    return np.asarray(policy.act(carry, jnp.asarray(x), jnp.asarray(t, jnp.int32))[0])


def test_its_mean_is_the_line_around_the_reference() -> None:
    policy = controller()
    x = np.array([0.1, -0.2])
    g = policy.gains
    expected = g.us[0, 1] + g.K[0, 1] @ (x - g.xs[0, 1])
    np.testing.assert_allclose(act(policy, x, 1), np.clip(expected, -1, 1), rtol=1e-6)
    assert act(policy, x, 1).dtype == np.float32
    np.testing.assert_array_equal(act(policy, x, 7), act(policy, x, T - 1))


def test_the_controller_of_the_nearest_start_takes_an_episode() -> None:
    policy = controller()
    carries = [policy.init(jnp.asarray(x0), jr.key(0)).index for x0 in ([0.5, 0.0], [2.0, 1.0])]
    assert [int(index) for index in carries] == [0, 1]
    assert int(controller(only=jnp.asarray(1, jnp.int32)).init(jnp.zeros(n), jr.key(0)).index) == 1
    # The short way round: 3.1 is next to -3.1.
    turned = controller(starts=jnp.asarray([[3.1, 0.0], [-1.0, 0.0]]), angles=(0,))
    assert int(turned.init(jnp.asarray([-3.1, 0.0]), jr.key(0)).index) == 0


def test_its_noise_has_the_covariance_that_it_says_and_stays_within_the_limits() -> None:
    policy = controller(noise=jnp.asarray(1.0), actions=Box(np.full(m, -50.0), np.full(m, 50.0)))
    x = jnp.asarray([0.1, -0.2])
    one = lambda key: policy.act(policy.init(x, key), x, jnp.asarray(2, jnp.int32))[0]
    us = np.asarray(jax.vmap(one)(jr.split(jr.key(1), 20000)), np.float64)
    L = np.asarray(policy.gains.L[0, 2])
    np.testing.assert_allclose(np.cov(us.T), L @ L.T, atol=4 * np.max(L @ L.T) * np.sqrt(2 / 20000))
    tight = controller(noise=jnp.asarray(100.0))
    assert np.abs(act(tight, np.array([0.1, -0.2]))).max() <= 1.0


def test_an_anchored_one_holds_the_state_in_which_it_took_over() -> None:
    policy = controller(anchored=jnp.asarray(True))
    np.testing.assert_allclose(act(policy, [0.3, 0.4], 0), np.clip(policy.gains.us[0, 0], -1, 1), rtol=1e-6)
    moved = act(policy, [0.4, 0.4], 0, x0=[0.3, 0.4])
    expected = policy.gains.us[0, 0] + policy.gains.K[0, 0] @ np.array([0.1, 0.0])
    np.testing.assert_allclose(moved, np.clip(expected, -1, 1), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_not_fed_back(bad) -> None:
    assert np.isfinite(act(controller(), [bad, 0.0], x0=[0.0, 0.0])).all()
