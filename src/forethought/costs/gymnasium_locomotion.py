"""Gymnasium's own rewards as costs, c = -r: MuJoCo tasks that move forward.

All four reward the mean forward velocity of a step, (p' - p)/dt, where p is a position that the default observation
leaves out.  From velocities alone it can only be approximated; the classes say how well on 1,000 random transitions.
With exclude_current_positions_from_observation=False it is exact, up to the float32 rounding of p.
Read from Gymnasium 1.4 (gymnasium/envs/mujoco, version 5).  See `gymnasium.py` in this folder for the conventions.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.costs.gymnasium import always, finite_or_nan, zero
from forethought.types import Action, Array, Flag, Scalar, State, Time


class SwimmerCost(AbstractCost):
    """Swimmer-v5: c = ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt, dt = 0.01 s frame_skip.

    Where p is hidden the velocity is (v + v')/2 (trapezoid rule), v = x[3] in m/s.  Error on random transitions:
    root mean square 0.03, at most 0.3 (where a joint hits its limit), with a reward of standard deviation 0.42.
    """

    forward_reward_weight: float = eqx.field(static=True, default=1.0)
    ctrl_cost_weight: float = eqx.field(static=True, default=1e-4)
    frame_skip: int = eqx.field(static=True, default=4)
    exclude_current_positions_from_observation: bool = eqx.field(static=True, default=True)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt."""
        del t
        hidden = self.exclude_current_positions_from_observation
        velocity = trapezoid(x, y, 3) if hidden else (y[0] - x[0]) / (0.01 * self.frame_skip)
        return effort(x, u, self.ctrl_cost_weight) - self.forward_reward_weight * velocity

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        del y
        return always()


class HalfCheetahCost(AbstractCost):
    """HalfCheetah-v5: c = ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt, dt = 0.01 s frame_skip.

    Where p is hidden the velocity is ((F-1) v + (F+1) v')/(2F) with F = frame_skip and v = x[8] in m/s: the mean over
    F semi-implicit Euler steps if the velocity changes linearly.  Error on random transitions: root mean square 0.12,
    at most 0.7 (contacts change the velocity inside a step), with a reward of standard deviation 0.63.
    """

    forward_reward_weight: float = eqx.field(static=True, default=1.0)
    ctrl_cost_weight: float = eqx.field(static=True, default=0.1)
    frame_skip: int = eqx.field(static=True, default=5)
    exclude_current_positions_from_observation: bool = eqx.field(static=True, default=True)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt."""
        del t
        skip = self.frame_skip
        if self.exclude_current_positions_from_observation:
            velocity = ((skip - 1) * x[8] + (skip + 1) * y[8]) / (2 * skip)
        else:
            velocity = (y[0] - x[0]) / (0.01 * skip)
        return effort(x, u, self.ctrl_cost_weight) - self.forward_reward_weight * velocity

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        del y
        return always()


class HopperCost(AbstractCost):
    """Hopper-v5: c = ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt - healthy_reward [healthy],
    dt = 0.002 s frame_skip; being unhealthy ends the episode if terminate_when_unhealthy.

    Healthy: height, angle and every further state component inside their open ranges.  Where p is hidden the velocity
    is (v + v')/2 (trapezoid rule), v = x[5] in m/s.  Error on random transitions: root mean square 0.004, at most
    0.05 (contacts), with a reward of standard deviation 0.46.  The observation clips velocities at 10, so that an end
    through healthy_state_range is seen only for limits below that.
    """

    forward_reward_weight: float = eqx.field(static=True, default=1.0)
    ctrl_cost_weight: float = eqx.field(static=True, default=1e-3)
    healthy_reward: float = eqx.field(static=True, default=1.0)
    terminate_when_unhealthy: bool = eqx.field(static=True, default=True)
    healthy_state_range: tuple[float, float] = eqx.field(static=True, default=(-100.0, 100.0))
    healthy_z_range: tuple[float, float] = eqx.field(static=True, default=(0.7, float("inf")))
    healthy_angle_range: tuple[float, float] = eqx.field(static=True, default=(-0.2, 0.2))
    frame_skip: int = eqx.field(static=True, default=4)
    exclude_current_positions_from_observation: bool = eqx.field(static=True, default=True)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt - healthy_reward [healthy]."""
        del t
        hidden = self.exclude_current_positions_from_observation
        velocity = trapezoid(x, y, 5) if hidden else (y[0] - x[0]) / (0.002 * self.frame_skip)
        bonus = jnp.where(self._healthy(y), jnp.full((), self.healthy_reward, x.dtype), zero(x))
        cost = effort(x, u, self.ctrl_cost_weight) - self.forward_reward_weight * velocity - bonus
        return finite_or_nan(cost, y[: x.shape[0]])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Healthy, if that is what ends the episode."""
        return self._healthy(y) if self.terminate_when_unhealthy else always()

    def _healthy(self, y: Float[Array, " k"]) -> Flag:
        """Height, angle and the rest inside their ranges."""
        z = 0 if self.exclude_current_positions_from_observation else 1
        rest = inside(y[z + 1 : z + 11], self.healthy_state_range)
        return inside(y[z], self.healthy_z_range) & inside(y[z + 1], self.healthy_angle_range) & jnp.all(rest)


class Walker2dCost(AbstractCost):
    """Walker2d-v5: c = ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt - healthy_reward [healthy],
    dt = 0.002 s frame_skip; being unhealthy ends the episode if terminate_when_unhealthy.

    Healthy: height and angle inside their open ranges.  Where p is hidden the velocity is (v + v')/2 (trapezoid
    rule), v = x[8] in m/s.  Error on random transitions: root mean square 0.015, at most 0.15 (contacts), with a
    reward of standard deviation 0.58.
    """

    forward_reward_weight: float = eqx.field(static=True, default=1.0)
    ctrl_cost_weight: float = eqx.field(static=True, default=1e-3)
    healthy_reward: float = eqx.field(static=True, default=1.0)
    terminate_when_unhealthy: bool = eqx.field(static=True, default=True)
    healthy_z_range: tuple[float, float] = eqx.field(static=True, default=(0.8, 2.0))
    healthy_angle_range: tuple[float, float] = eqx.field(static=True, default=(-1.0, 1.0))
    frame_skip: int = eqx.field(static=True, default=4)
    exclude_current_positions_from_observation: bool = eqx.field(static=True, default=True)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """ctrl_cost_weight |u|^2 - forward_reward_weight (p' - p)/dt - healthy_reward [healthy]."""
        del t
        hidden = self.exclude_current_positions_from_observation
        velocity = trapezoid(x, y, 8) if hidden else (y[0] - x[0]) / (0.002 * self.frame_skip)
        bonus = jnp.where(self._healthy(y), jnp.full((), self.healthy_reward, x.dtype), zero(x))
        cost = effort(x, u, self.ctrl_cost_weight) - self.forward_reward_weight * velocity - bonus
        return finite_or_nan(cost, y[: x.shape[0]])

    def terminal(self, x: State) -> Scalar:
        return zero(x)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Healthy, if that is what ends the episode."""
        return self._healthy(y) if self.terminate_when_unhealthy else always()

    def _healthy(self, y: Float[Array, " k"]) -> Flag:
        """Height and angle inside their ranges."""
        z = 0 if self.exclude_current_positions_from_observation else 1
        return inside(y[z], self.healthy_z_range) & inside(y[z + 1], self.healthy_angle_range)


def trapezoid(x: State, y: Float[Array, " k"], index: int) -> Scalar:
    """The mean velocity of a step from those before and after it, (v + v')/2."""
    return 0.5 * (x[index] + y[index])


def effort(x: State, u: Action, weight: float) -> Scalar:
    """weight |u|^2 in the dtype of x."""
    return weight * jnp.sum(u.astype(x.dtype) ** 2)


def inside(value: Float[Array, "*shape"], limits: tuple[float, float]) -> Array:
    """limits[0] < value < limits[1]; False for NaN."""
    return (value > limits[0]) & (value < limits[1])
