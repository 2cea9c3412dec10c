"""A cost of one's own: swing Pendulum-v1's pole up while using as little torque as possible.

    forethought train experiments/pendulum_own_cost.py
    forethought evaluate DIR --experiment experiments/pendulum_own_cost.py

Gymnasium charges 0.001 u^2 for the torque; here it is `effort` u^2.  The plans minimise this cost.  The returns that a
run reports are still the environment's own reward.
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from forethought import AbstractCost, Experiment, task


class Gentle(AbstractCost):
    """c = 1 - cos th + 0.05 w^2 + effort u^2, with x = [cos th, sin th, w], th = 0 upright, w in rad/s, u in N m."""

    effort: float = eqx.field(static=True, default=0.05)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x, u, y, t):
        """The cost of the state that the action is taken in."""
        return 1.0 - x[0] + 0.05 * x[2] ** 2 + self.effort * u[0].astype(x.dtype) ** 2

    def terminal(self, x):
        """Nothing is known about what comes after the horizon."""
        return jnp.zeros((), x.dtype)

    def alive(self, y):
        """Nothing ends the episode but the clock."""
        return jnp.ones((), bool)


experiment = Experiment(dataclasses.replace(task("Pendulum-v1"), cost=Gentle()), steps=400)
