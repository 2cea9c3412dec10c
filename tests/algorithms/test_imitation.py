"""The network of guided policy search: it does what the local controllers do, and is as sure as they are."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.algorithms.imitation import Guide, Lessons, imitate, linearised
from forethought.algorithms.local_improve import Rollouts
from forethought.policies.linear_gaussian import Gains
from forethought.policies.neural import NeuralPolicy, init_policy, mean_action
from forethought.types import Box, Spec

SPEC, B = Spec(n=2, m=2, angles=(0,)), 400
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
    return init_policy(SPEC, 16, 1, jr.key(0))


def lesson(x):
    """What is to be learned: smooth in an angle."""
    return np.stack([np.sin(x[:, 0]), 0.5 * x[:, 1] - 2.0], axis=1)


def lessons(weight=None):
    x = np.stack([rng.uniform(-3.0, 3.0, B), rng.uniform(-1.0, 1.0, B)], axis=1)
    covs = np.array([np.diag([0.04, 0.09]), np.array([[0.04, 0.03], [0.03, 0.09]])])[np.arange(B) % 2]
    root = np.linalg.inv(np.linalg.cholesky(covs))
    weight = np.ones(B) if weight is None else weight
    return Lessons(*map(jnp.asarray, (x, lesson(x), root, weight))), covs


def said(network, x):
    return np.asarray(jax.vmap(lambda x: mean_action(network, SPEC, x))(jnp.asarray(x)))


def test_it_learns_what_it_is_shown_and_its_noise_is_the_mean_precision(network):
    given, covs = lessons()
    trained, told = imitate(network, SPEC, given, 2000, jr.key(1))
    x = np.asarray(given.x)
    error = said(trained, x) - lesson(x)
    assert np.sqrt(np.mean(error**2)) < 0.05
    assert np.sqrt(np.mean((said(network, x) - lesson(x)) ** 2)) > 0.5
    assert not bool(told["imitation_failed"])
    wanted = np.linalg.inv(np.mean(np.linalg.inv(covs), axis=0))
    L = np.asarray(trained.L)
    np.testing.assert_allclose(L @ L.T, wanted, rtol=1e-5)
    np.testing.assert_array_equal(np.triu(L, 1), 0.0)


def test_a_whole_turn_is_no_difference(network):
    x = rng.normal(size=(5, 2))
    np.testing.assert_allclose(said(network, x), said(network, x + np.array([2 * np.pi, 0.0])), atol=1e-5)


def test_what_has_no_weight_is_not_learned(network):
    weight = np.where(np.arange(B) < B // 2, 1.0, 0.0)
    given, _ = lessons(weight)
    wrong = given._replace(u=jnp.where(jnp.asarray(weight)[:, None] > 0.0, given.u, 100.0))
    one, _ = imitate(network, SPEC, given, 50, jr.key(1))
    two, _ = imitate(network, SPEC, wrong, 50, jr.key(1))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_where_errors_matter_more_they_are_smaller(network):
    """Two lessons that contradict each other: the precise one wins."""
    x = np.tile([[0.5, 0.5]], (B, 1))
    u = np.where(np.arange(B)[:, None] % 2, [[1.0, 1.0]], [[0.0, 0.0]])
    root = np.where(np.arange(B)[:, None, None] % 2, 3.0 * np.eye(2), np.eye(2))
    given = Lessons(*map(jnp.asarray, (x, u, root, np.ones(B))))
    trained, _ = imitate(network, SPEC, given, 1000, jr.key(1))
    np.testing.assert_allclose(said(trained, x[:1]), [[0.9, 0.9]], atol=0.03)  # (9 1 + 1 0) / 10


@pytest.mark.parametrize("field", ["x", "u", "root"])
def test_a_network_that_would_not_be_finite_is_not_taken(network, field):
    given, _ = lessons()
    spoiled = given._replace(**{field: getattr(given, field).at[7].set(jnp.nan)})
    kept, told = imitate(network, SPEC, spoiled, 50, jr.key(1))
    assert bool(told["imitation_failed"])
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_policy_along_a_path_is_the_networks_tangent(network):
    network = network._replace(L=jnp.asarray([[0.2, 0.0], [0.1, 0.3]], jnp.float32))
    xs = rng.normal(size=(3, 4, 2))
    policy = linearised(network, SPEC, jnp.asarray(xs))
    assert policy.K.shape == (3, 4, 2, 2)
    u = np.einsum("ctij,ctj->cti", policy.K, xs) + np.asarray(policy.k)
    np.testing.assert_allclose(u.reshape(-1, 2), said(network, xs.reshape(-1, 2)), atol=1e-6)
    h = 1e-2
    for j, e in enumerate(np.eye(2)):
        slope = (said(network, xs.reshape(-1, 2) + h * e) - said(network, xs.reshape(-1, 2) - h * e)) / (2 * h)
        np.testing.assert_allclose(np.asarray(policy.K)[..., j].reshape(-1, 2), slope, atol=1e-3)
    np.testing.assert_array_equal(policy.L[2, 3], network.L)


def test_the_guide_reads_lessons_off_the_controllers(network):
    """Angles count by the nearest way round, and rollouts that are not finite or never happened not at all."""
    T, xs = 3, np.zeros((1, 3, 2))
    K = np.tile(np.array([[1.0, 0.0], [0.0, 2.0]]), (1, T, 1, 1))
    gains = Gains(*map(jnp.asarray, (xs, np.full((1, T, 2), 0.5), K, np.tile(0.1 * np.eye(2), (1, T, 1, 1)))))
    x = np.zeros((1, 3, T + 1, 2))
    x[0, :, :, 0], x[0, :, :, 1] = 2 * np.pi + 0.1, -0.2
    x[0, 1] = np.nan
    x[0, 2] = 9.0
    weight = np.ones((1, 3, T))
    weight[0, 2] = 0.0
    rollouts = Rollouts(*map(jnp.asarray, (x, np.zeros((1, 3, T, 2)), weight, np.zeros((1, 3)))))
    guide = Guide(on=True, gradient_steps=800)
    trained, told = guide.follow(network, SPEC, rollouts, gains, jr.key(2))
    assert told["local_imitation_failed"] is False
    np.testing.assert_allclose(said(trained, [[0.1, -0.2]]), [[0.6, 0.1]], atol=0.01)
    np.testing.assert_allclose(trained.L, 0.1 * np.eye(2), rtol=1e-5)


def test_off_means_no_network():
    assert Guide().init(SPEC, jr.key(0)) is None


def test_the_policy_keeps_to_the_limits_and_stands_what_it_cannot_see(network):
    actions = Box(np.float32([-0.1, -0.1]), np.float32([0.1, 0.1]))
    network = network._replace(L=5.0 * jnp.eye(2, dtype=jnp.float32))
    policy = NeuralPolicy(network, jnp.ones((), jnp.float32), actions, SPEC)
    seen = []
    carry = policy.init(jnp.zeros(2), jr.key(3))
    for x in ([0.0, 0.0], [np.nan, 1.0], [np.inf, 1e30]):
        u, carry = policy.act(carry, jnp.asarray(x), jnp.zeros((), jnp.int32))
        seen.append(np.asarray(u))
        assert np.all(np.abs(u) <= 0.1)
        assert u.dtype == np.float32
    assert not np.array_equal(seen[0], seen[1])  # noise of its own at every step
    still = dataclasses.replace(policy, noise=jnp.zeros((), jnp.float32))
    one, two = (np.asarray(still.act(carry, jnp.zeros(2), jnp.zeros((), jnp.int32))[0]) for _ in "12")
    np.testing.assert_array_equal(one, two)
