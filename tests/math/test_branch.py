"""Branched rollouts: what follows what, which belief speaks, and where an episode is over."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from forethought.core import AbstractCost, AbstractDynamics, AbstractPrediction
from forethought.math.gaussian import DiagonalGaussian
from forethought.math.rollout import branch

STARTS = np.array([[[1.0], [2.0], [3.0]], [[1.0], [-1.0], [8.0]]], np.float32)
P, N, _ = STARTS.shape
H = 4


class Adds(AbstractDynamics):
    """x' = x + u + shift, with noise."""

    shift: jax.Array
    std: float = 0.0

    def predict(self, x, u, t) -> AbstractPrediction:
        return DiagonalGaussian(x + u + self.shift, jnp.full((1,), self.std, jnp.float32))

    def draw(self, key, particles):
        return self


class Ends(AbstractCost):
    """Costs u^2 + x'; over at 6 and beyond, and not a number below 0."""

    extras: int = eqx.field(default=0, init=False)

    def stage(self, x, u, y, t):
        return jnp.where(y[0] < 0.0, jnp.nan, u[0] ** 2 + y[0])

    def terminal(self, x):
        return jnp.zeros(())

    def alive(self, y):
        return y[0] < 6.0


def run(std=0.0):
    keys = jr.split(jr.key(0), (H, P))
    choose = lambda x, key: jnp.full((1,), 0.25, jnp.float32)
    beliefs = Adds(jnp.asarray([[0.0], [2.0]], jnp.float32), std)
    return branch(beliefs, Ends(), choose, lambda z: 4.0 * z, jnp.asarray(STARTS), keys)


def test_it_is_the_rollout_by_hand():
    made, sound = run()
    for p in range(P):
        for i in range(N):
            x, lives = STARTS[p, i, 0], True
            for h in range(H):
                y = x + 1.0 + 2.0 * p
                good = lives and y >= 0.0
                assert bool(sound[h, p, i]) == good, (p, i, h)
                if good:
                    np.testing.assert_allclose(made.x[h, p, i], [x])
                    np.testing.assert_allclose(made.z[h, p, i], [0.25])
                    np.testing.assert_allclose(made.cost[h, p, i], 1.0 + y)
                    np.testing.assert_allclose(made.y[h, p, i], [y])
                    assert bool(made.ends[h, p, i]) == (y >= 6.0)
                lives, x = good and y < 6.0, y


def test_noise_differs_from_row_to_row_and_step_to_step():
    made, _ = run(std=0.1)
    off = np.asarray(made.y - made.x).ravel()
    assert len(np.unique(off)) == P * N * H
