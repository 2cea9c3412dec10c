"""Gymnasium's own rewards as costs, c = -r: classic control.

Each class is the reward of one environment, with the environment's keyword arguments as fields where they change the
reward.  Read from Gymnasium 1.4 (gymnasium/envs/classic_control) and compared with it on random transitions in
tests/costs.  x, u and y are what the environment shows: observations, not its hidden state; only the first n entries
of y are read.  A y that is not finite costs NaN, so that it never looks better than an honest one.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.math.angles import wrap
from forethought.types import Action, Array, Flag, Scalar, State, Time


def finite_or_nan(cost: Scalar, y: Float[Array, " k"]) -> Scalar:
    """The cost, or NaN where y is not finite: comparisons with NaN are False and would hide it."""
    return jnp.where(jnp.all(jnp.isfinite(y)), cost, jnp.nan)


def zero(x: State) -> Scalar:
    """0 in the dtype of x."""
    return jnp.zeros((), x.dtype)


def always() -> Flag:
    """True: nothing ends the episode but the clock."""
    return jnp.ones((), bool)


class PendulumCost(AbstractCost):
    """Pendulum-v1: c = th^2 + 0.1 w^2 + 0.001 u^2 at the state x = [cos th, sin th, w] in which u is applied.

    th in rad in [-pi, pi), 0 upright; w in rad/s; u in N m.  Exact up to the float32 rounding of the observation,
    which only matters where th wraps.  The environment's argument g does not change the reward.
    """

    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """th^2 + 0.1 w^2 + 0.001 u^2."""
        del y, t
        angle = wrap(jnp.arctan2(x[1], x[0]))
        return angle**2 + 0.1 * x[2] ** 2 + 0.001 * u[0].astype(x.dtype) ** 2

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        del y
        return always()


class MountainCarContinuousCost(AbstractCost):
    """MountainCarContinuous-v0: c = 0.1 u^2 - 100 [goal], where goal = (y[0] >= 0.45 and y[1] >= goal_velocity).

    y = [position, velocity].  The goal ends the episode.  Exact.
    """

    goal_velocity: float = eqx.field(static=True, default=0.0)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """0.1 u^2 - 100 [goal]."""
        del t
        bonus = jnp.where(self.alive(y), zero(x), jnp.full((), 100.0, x.dtype))
        return finite_or_nan(0.1 * u[0].astype(x.dtype) ** 2 - bonus, y[:2])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """False at the goal."""
        return ~((y[0] >= 0.45) & (y[1] >= self.goal_velocity))


class MountainCarCost(AbstractCost):
    """MountainCar-v0: c = 1 for every step, the last one included; the goal, y[0] >= 0.5 and y[1] >= goal_velocity,
    ends the episode.

    y = [position, velocity].  Exact.
    """

    goal_velocity: float = eqx.field(static=True, default=0.0)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """1."""
        del u, t
        return finite_or_nan(jnp.ones((), x.dtype), y[:2])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """False at the goal."""
        return ~((y[0] >= 0.5) & (y[1] >= self.goal_velocity))


class CartPoleCost(AbstractCost):
    """CartPole-v1: c = -1 for every step, the last one included; the episode ends when |p| > 2.4 m or |th| > 12 deg.

    y = [p, v, th, w].  With sutton_barto_reward: c = 1 for the step that ends the episode, otherwise 0.  Exact, but for
    states within float32 rounding of the limits.
    """

    sutton_barto_reward: bool = eqx.field(static=True, default=False)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """-1, or with sutton_barto_reward 1 at the end and 0 before."""
        del u, t
        one = jnp.ones((), x.dtype)
        cost = jnp.where(self.alive(y), zero(x), one) if self.sutton_barto_reward else -one
        return finite_or_nan(cost, y[:4])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """|p| <= 2.4 and |th| <= 12 degrees."""
        return (jnp.abs(y[0]) <= 2.4) & (jnp.abs(y[2]) <= 12 * 2 * jnp.pi / 360)


class AcrobotCost(AbstractCost):
    """Acrobot-v1: c = 1 until the tip is above the line, 0 for the step that brings it there and ends the episode.

    y = [cos a, sin a, cos b, sin b, da, db]; the line is at -cos a - cos(a + b) > 1.  Exact, but for states within
    float32 rounding of the line.
    """

    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """1, or 0 at the end."""
        del u, t
        return finite_or_nan(jnp.where(self.alive(y), jnp.ones((), x.dtype), zero(x)), y[:6])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """-cos a - cos(a + b) <= 1."""
        return -y[0] - (y[0] * y[2] - y[1] * y[3]) <= 1.0
