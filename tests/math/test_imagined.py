"""Imagined episodes beside a plain loop, and what ends them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from forethought.core import AbstractCost, AbstractDynamics, AbstractPolicy
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.imagined import Room, Starts, discounted, episodes

P, R, H = 2, 3, 6
WIDE = Room(jnp.full((1,), -1e6, jnp.float32), jnp.full((1,), 1e6, jnp.float32))


class Line(AbstractDynamics):
    """x' = x + a u, a belief about a; NaN once x is beyond `sane`."""

    a: Any
    sane: float = np.inf

    def predict(self, x, u, t):
        y = jnp.where(jnp.abs(x) > self.sane, jnp.nan, x + self.a * u)
        return DiagonalGaussian(y, jnp.zeros_like(y))

    def draw(self, key, particles):
        raise NotImplementedError


class Push(AbstractPolicy):
    """u = 1, or t where `clock` is set."""

    clock: bool = False

    def init(self, x, key):
        return jnp.zeros((), jnp.int32)

    def act(self, carry, x, t):
        u = jnp.where(self.clock, t, 1).astype(jnp.float32)
        return u[None], carry + 1


class Until(AbstractCost):
    """c = x, and the episode ends beyond `end`."""

    end: float = np.inf
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x, u, y, t):
        return x[0]

    def terminal(self, x):
        return jnp.zeros(())

    def alive(self, y):
        return y[0] <= self.end


BELIEFS = jnp.asarray([1.0, 2.0], jnp.float32)
STARTS = Starts(
    jnp.asarray(np.arange(P * R).reshape(P, R, 1), jnp.float32), jnp.asarray(np.arange(P * R).reshape(P, R))
)


@eqx.filter_jit
def run(dynamics, policy, cost, room=WIDE):
    return episodes(dynamics, policy, cost, STARTS, room, jr.key(0), horizon=H)


def test_each_rollout_keeps_its_belief_and_the_clock_of_its_start():
    found = run(Line(BELIEFS), Push(clock=True), Until())
    for p in range(P):
        for r in range(R):
            x, t = float(p * R + r), p * R + r
            for h in range(H):
                y = x + float(BELIEFS[p]) * (t + h)
                row = [float(v[p, r, h].reshape(())) for v in (found.x, found.u, found.y, found.cost)]
                np.testing.assert_allclose(row, [x, t + h, y, x])
                x = y
    assert bool(found.use.all())
    assert not bool(found.terminated.any())
    weights = 0.9 ** np.arange(H)
    np.testing.assert_allclose(discounted(found, 0.9), (np.asarray(found.cost) * weights).sum(2).mean(1), rtol=1e-6)
    closed = discounted(found, 0.9, lambda x: 10.0 * x[0])
    last = np.asarray(found.y)[:, :, -1, 0].mean(1)
    np.testing.assert_allclose(closed, np.asarray(discounted(found, 0.9)) + 0.9**H * 10.0 * last, rtol=1e-6)


def test_nothing_happens_after_the_end_of_the_task():
    found = run(Line(BELIEFS), Push(), Until(end=4.5))
    np.testing.assert_array_equal(found.use[0, 0], [True] * 5 + [False])  # 0 to 5
    np.testing.assert_array_equal(found.terminated[0, 0], [False] * 4 + [True, False])
    np.testing.assert_array_equal(found.use[1, 2], [True] + [False] * 5)  # 5 to 7
    assert float(found.cost[0, 0].sum()) == 0 + 1 + 2 + 3 + 4
    # Beyond an end there is no value.
    np.testing.assert_allclose(discounted(found, 1.0, lambda x: 1e9 * jnp.ones(())), discounted(found, 1.0))


def test_a_rollout_breaks_off_where_it_is_not_finite_and_never_looks_cheap():
    found = run(Line(BELIEFS, sane=7.5), Push(), Until())
    np.testing.assert_array_equal(found.use[1, 2], [True, True, False, False, False, False])  # 5, 7, 9, NaN
    assert all(bool(jnp.isfinite(v).all()) for v in (found.x, found.y, found.cost))
    cost = discounted(found, 1.0)
    assert np.isfinite(cost[0])
    assert np.isposinf(cost[1])


@pytest.mark.parametrize("high", [3.0, 5.5])
def test_states_stay_in_their_room(high):
    found = run(Line(BELIEFS), Push(), Until(), Room(WIDE.low, jnp.full((1,), high, jnp.float32)))
    assert float(found.y.max()) == high
    assert bool(found.use.all())
