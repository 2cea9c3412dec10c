"""A condition fixes the start of an episode, bit for bit, which local methods rely on."""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractPolicy
from forethought.tasks import MISSES, task


class Push(AbstractPolicy):
    """A fixed torque."""

    def init(self, x, key):
        return None

    def act(self, carry, x, t):
        return jnp.array([0.3, -0.2], jnp.float32), None


def hidden(world) -> np.ndarray:
    data = world.env.unwrapped.data
    return np.concatenate([data.qpos, data.qvel])


def test_reacher_starts_where_it_started() -> None:
    """Also after other episodes, in a fresh instance, and in what the observation does not show."""
    world, four = task("Reacher-v5").world, range(4)
    seen, true = [], []
    for seed in four:
        at = world.reset(jr.key(seed), seed)
        seen.append(np.asarray(at.x))
        true.append(hidden(world))
        world.collect(Push(), None, at, jr.key(0), 7)
    other = world.fresh()
    for seed in reversed(four):
        for again in (world, other):
            assert np.array_equal(again.reset(jr.key(99), seed).x, seen[seed])
            assert np.array_equal(hidden(again), true[seed])
    assert len({tuple(x) for x in seen}) == 4
    # The targets are different ones, in reach, and do not move.
    goals = np.array([x[4:6] for x in seen])
    assert np.all(np.linalg.norm(goals, axis=1) < 0.2)
    episodes = world.rollouts(Push(), jr.key(1), [*four, *four], 50)
    for one, two in zip(episodes[:4], episodes[4:], strict=True):
        assert np.array_equal(one.x, two.x)
        assert np.array_equal(one.y, two.y)
        assert np.all(one.y[:, 4:6] == one.x[0, 4:6])


def test_the_distance_at_the_end_is_the_observations() -> None:
    """Of fingertip and target as MuJoCo has them, and of the angles by hand (to the digits of its last Runge-Kutta
    stage)."""
    world = task("Reacher-v5").world
    (q,) = world.rollouts(Push(), jr.key(1), [2], 50)
    inner = world.env.unwrapped
    away = np.linalg.norm(inner.get_body_com("fingertip") - inner.get_body_com("target"))
    assert MISSES["Reacher-v5"](q) == away
    y = q.y[-1]
    first, second = np.arctan2(y[2:4], y[:2])
    tip = 0.1 * np.exp(1j * first) + 0.11 * np.exp(1j * (first + second))
    assert abs(abs(tip - complex(*y[4:6])) - away) < 1e-5
