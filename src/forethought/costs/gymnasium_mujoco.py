"""Gymnasium's own rewards as costs, c = -r: MuJoCo tasks that do not walk.

Read from Gymnasium 1.4 (gymnasium/envs/mujoco, version 5) and compared with it on random transitions in tests/costs.
See `gymnasium.py` in this folder for the conventions.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.costs.gymnasium import always, finite_or_nan, zero
from forethought.types import Action, Array, Flag, Scalar, State, Time


class InvertedPendulumCost(AbstractCost):
    """InvertedPendulum-v5: c = -1 while |th| <= 0.2 rad, 0 for the step that exceeds it and ends the episode.

    y = [p, th, v, w].  Exact, but for angles within float32 rounding of the limit.
    """

    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """-1, or 0 at the end."""
        del u, t
        return finite_or_nan(jnp.where(self.alive(y), -jnp.ones((), x.dtype), zero(x)), y[:4])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """|th| <= 0.2 rad."""
        return jnp.abs(y[1]) <= 0.2


class InvertedDoublePendulumCost(AbstractCost):
    """InvertedDoublePendulum-v5: c = 0.01 X^2 + (Z - 2)^2 + 0.001 w1^2 + 0.005 w2^2 - healthy_reward [Z > 1].

    y = [p, sin a, sin b, cos a, cos b, v, w1, w2, ...]; the tip is at X = p + 0.6 (sin a + sin(a+b)),
    Z = 0.6 (cos a + cos(a+b)) in m; Z <= 1 ends the episode.  Not exact, for two reasons.  The environment takes the
    tip's position from the last stage of MuJoCo's Runge-Kutta step, not from the state it ends in: at most 2e-4 on
    random transitions.  Its observation clips velocities at 10 rad/s and its reward does not: beyond the clip, one
    random transition in 2,500, the cost is too low by 0.001 (w1^2 - 100) and 0.005 (w2^2 - 100): up to 0.12 was seen.
    """

    healthy_reward: float = eqx.field(static=True, default=10.0)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """0.01 X^2 + (Z - 2)^2 + 0.001 w1^2 + 0.005 w2^2 - healthy_reward [Z > 1]."""
        del u, t
        across, up = self._tip(y)
        distance = 0.01 * across**2 + (up - 2.0) ** 2
        speed = 1e-3 * y[6] ** 2 + 5e-3 * y[7] ** 2
        bonus = jnp.where(self.alive(y), jnp.full((), self.healthy_reward, x.dtype), zero(x))
        return distance + speed - bonus

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Z > 1 m."""
        return self._tip(y)[1] > 1.0

    def _tip(self, y: Float[Array, " k"]) -> tuple[Scalar, Scalar]:
        """X, Z of the tip in m."""
        sin_ab = y[1] * y[4] + y[3] * y[2]
        cos_ab = y[3] * y[4] - y[1] * y[2]
        return y[0] + 0.6 * (y[1] + sin_ab), 0.6 * (y[3] + cos_ab)


class ReacherCost(AbstractCost):
    """Reacher-v5: c = reward_dist_weight |y[8:10]| + reward_control_weight |u|^2.

    y[8:10] is the vector from target to fingertip in m; their heights are equal.  Exact.  A model must learn that
    the target y[4:6] does not move, and that y[8:10] follows from the rest.
    """

    reward_dist_weight: float = eqx.field(static=True, default=1.0)
    reward_control_weight: float = eqx.field(static=True, default=1.0)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """reward_dist_weight |y[8:10]| + reward_control_weight |u|^2."""
        del t
        effort = jnp.sum(u.astype(x.dtype) ** 2)
        return self.reward_dist_weight * norm(y[8:10]) + self.reward_control_weight * effort

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        del y
        return always()


class PusherCost(AbstractCost):
    """Pusher-v5: c = reward_near_weight |o - f| + reward_dist_weight |o - g| + reward_control_weight |u|^2.

    In m: fingertips f = y[14:17], object o = y[17:20], goal g = y[20:23].  Exact.
    """

    reward_near_weight: float = eqx.field(static=True, default=0.5)
    reward_dist_weight: float = eqx.field(static=True, default=1.0)
    reward_control_weight: float = eqx.field(static=True, default=0.1)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """reward_near_weight |o - f| + reward_dist_weight |o - g| + reward_control_weight |u|^2."""
        del t
        near = self.reward_near_weight * norm(y[17:20] - y[14:17])
        far = self.reward_dist_weight * norm(y[17:20] - y[20:23])
        return near + far + self.reward_control_weight * jnp.sum(u.astype(x.dtype) ** 2)

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        del y
        return always()


def norm(v: Float[Array, " k"]) -> Scalar:
    """sqrt(|v|^2 + 1e-12): the length, at most 1e-6 too long, with a gradient at 0 that is 0 and not NaN."""
    return jnp.sqrt(jnp.sum(v * v) + 1e-12)
