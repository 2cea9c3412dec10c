"""Small models, costs and problems whose answers are known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from forethought.core import AbstractDynamics, Problem
from forethought.costs.quadratic import Quadratic
from forethought.math.gaussian import DiagonalGaussian
from forethought.types import Array, Box, Dataset, Trajectory


class Linear(AbstractDynamics):
    """y = A x + B u, certain."""

    A: Array
    B: Array

    def predict(self, x, u, t):
        y = jnp.asarray(self.A, x.dtype) @ x + jnp.asarray(self.B, x.dtype) @ u
        return DiagonalGaussian(y, jnp.zeros_like(y))

    def draw(self, key, particles):
        repeat = lambda v: jnp.broadcast_to(jnp.asarray(v), (particles, *jnp.shape(v)))
        return Linear(repeat(self.A), repeat(self.B))


A = np.array([[1.0, 0.3], [0.0, 1.0]], np.float32)
B = np.array([[0.0], [0.3]], np.float32)
Q, R, QF = np.eye(2, dtype=np.float32), 0.1 * np.eye(1, dtype=np.float32), 5.0 * np.eye(2, dtype=np.float32)
X0 = np.array([1.0, 0.2], np.float32)


def lq_problem(horizon: int, limit: float = 6.0) -> Problem:
    """A double integrator whose optimal actions stay inside the limits."""
    actions = Box(np.full(1, -limit, np.float32), np.full(1, limit, np.float32))
    return Problem(
        Linear(A, B),
        Quadratic(np.zeros(2, np.float32), Q, R, QF),
        actions,
        jnp.asarray(X0),
        jnp.zeros((), jnp.int32),
        horizon,
    )


def as_trajectory(x, u, y, reward=None, terminated=None) -> Trajectory:
    """A trajectory from plain arrays; flags false and rewards zero unless given."""
    count = len(x)
    zero, false = np.zeros(count), np.zeros(count, bool)
    return Trajectory(
        x=np.asarray(x, float),
        u=np.asarray(u, float),
        y=np.asarray(y, float),
        reward=zero if reward is None else np.asarray(reward, float),
        terminated=false if terminated is None else np.asarray(terminated),
        truncated=false,
        t=np.arange(count),
        log_prob=zero,
        condition=np.zeros(count, np.int64),
    )


def as_dataset(spec, *trajectories: Trajectory) -> Dataset:
    """A dataset that holds the given episodes."""
    from forethought.math.dataset import append, empty

    data = empty(spec)
    for episode, trajectory in enumerate(trajectories):
        data = append(data, trajectory, episode)
    return data
