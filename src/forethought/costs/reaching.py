"""Costs of reaching a target: smooth, flat far away, and steep enough near the target to be precise there."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.types import Action, Array, Flag, Scalar, State, Time


def near(square: Scalar, distance_weight: float, log_weight: float, alpha: float) -> Scalar:
    """distance_weight d^2 + log_weight log(1 + d^2/alpha) of d^2 = `square` in m^2: 0 at the target, smooth there.

    Far away the first term counts; within sqrt(alpha) of the target the second adds log_weight/alpha to the curvature.
    After Levine, Wagener and Abbeel, Learning contact-rich manipulation skills with guided policy search, ICRA 2015,
    whose cost is this one plus log_weight log(alpha).
    """
    return distance_weight * square + log_weight * jnp.log1p(square / alpha)


class Components(eqx.Module):
    """The components of a state that are the vector from a target to what shall reach it."""

    at: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, y: State) -> Float[Array, " k"]:
        """y[at]."""
        return jnp.stack([y[i] for i in self.at])


class ArmOffset(eqx.Module):
    """Where the tip of a planar arm is, from its target, in m.

    y = [a, b, ...]: a from the x axis, b relative to the first link, in rad; links of lengths l1, l2 in m:
    (l1 cos a + l2 cos(a+b), l1 sin a + l2 sin(a+b)) - target.
    """

    target: tuple[float, float] = eqx.field(static=True)
    lengths: tuple[float, float] = eqx.field(static=True)

    def __call__(self, y: State) -> Float[Array, " k"]:
        """The offset [2]."""
        first, second = y[0], y[0] + y[1]
        l1, l2 = self.lengths
        across = l1 * jnp.cos(first) + l2 * jnp.cos(second) - self.target[0]
        along = l1 * jnp.sin(first) + l2 * jnp.sin(second) - self.target[1]
        return jnp.stack([across, along])


class Reaching(AbstractCost):
    """c(u, y) = distance_weight d^2 + log_weight log(1 + d^2/alpha) + control_weight |u|^2, d = |offset(y)| in m.

    Of the state y that the step led to; no terminal cost.  `offset` is a module that maps y [n] to the vector [k] from
    the target, for instance Components((8, 9)) of Reacher-v5's observation: its own reward, -|y[8:10]| - |u|^2, has a
    kink at the target, where a quadratic expansion says nothing.  alpha is in m^2.
    """

    offset: Callable[[State], Float[Array, " k"]]
    distance_weight: float = eqx.field(static=True, default=1.0)
    log_weight: float = eqx.field(static=True, default=0.01)
    alpha: float = eqx.field(static=True, default=1e-5)
    control_weight: float = eqx.field(static=True, default=1e-3)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """distance_weight d^2 + log_weight log(1 + d^2/alpha) + control_weight |u|^2."""
        del t
        square = jnp.sum(self.offset(y[: x.shape[0]]) ** 2)
        effort = self.control_weight * jnp.sum(u.astype(x.dtype) ** 2)
        return near(square, self.distance_weight, self.log_weight, self.alpha) + effort

    def terminal(self, x: State) -> Scalar:
        """0."""
        return jnp.zeros((), x.dtype)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Always: this cost ends no episode."""
        del y
        return jnp.ones((), bool)


class PegInsertionCost(AbstractCost):
    """forethought/PegInsertion-v0: c = distance_weight d^2 + log_weight log(1 + d^2/alpha) + control_weight |u|^2.

    d^2 = |y[6:8]|^2 + |y[8:10]|^2 in m^2: two points of the peg from their targets.  Exact; alpha is in m^2.
    """

    distance_weight: float = eqx.field(static=True, default=1.0)
    log_weight: float = eqx.field(static=True, default=0.01)
    alpha: float = eqx.field(static=True, default=1e-5)
    control_weight: float = eqx.field(static=True, default=1e-3)
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """distance_weight d^2 + log_weight log(1 + d^2/alpha) + control_weight |u|^2."""
        del t
        effort = self.control_weight * jnp.sum(u.astype(x.dtype) ** 2)
        return near(jnp.sum(y[6:10] ** 2), self.distance_weight, self.log_weight, self.alpha) + effort

    def terminal(self, x: State) -> Scalar:
        """0."""
        return jnp.zeros((), x.dtype)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Always: nothing ends the episode but the clock."""
        del y
        return jnp.ones((), bool)
