"""Saturating costs: 1 far from the goal, 0 at it.  They do not punish exploration more the further it goes."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.costs.quadratic import distance, form
from forethought.math.angles import wrap
from forethought.types import Action, Array, Flag, Scalar, State, Time


class Saturating(AbstractCost):
    """c(y) = 1 - exp(-(y - goal)' W (y - goal)), of the state y that the step led to; no terminal cost.

    W is a matrix or the vector of its diagonal, in 1/units^2 of the state.  Where `angles` names components, their
    difference from the goal is taken the short way round.  After Deisenroth and Rasmussen, PILCO, ICML 2011.
    """

    goal: Float[Array, " n"]
    weight: Float[Array, " n"] | Float[Array, "n n"]
    angles: tuple[int, ...] = eqx.field(static=True, default=())
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """1 - exp(-(y - goal)' W (y - goal)), in [0, 1]."""
        del u, t
        return -jnp.expm1(-form(distance(y[: x.shape[0]], self.goal, self.angles), self.weight))

    def terminal(self, x: State) -> Scalar:
        """0."""
        return jnp.zeros((), x.dtype)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Always: this cost ends no episode."""
        del y
        return jnp.ones((), bool)


class CartPoleSwingUpCost(AbstractCost):
    """c(y) = 1 - exp(-((|a| - pi)/3)^2 - p^2), of the state y = [p, v, a, w] that the step led to; no terminal cost.

    p [m] is the cart's position and a [rad] the pole's angle, wrapped to [-pi, pi), 0 when it hangs: the cost is 0 for
    an upright pole above the origin.
    """

    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """1 - exp(-((|a| - pi)/3)^2 - p^2), in [0, 1]."""
        del x, u, t
        off = (jnp.abs(wrap(y[2])) - np.pi) / 3.0
        return -jnp.expm1(-(off**2) - y[0] ** 2)

    def terminal(self, x: State) -> Scalar:
        """0."""
        return jnp.zeros((), x.dtype)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Always: this cost ends no episode."""
        del y
        return jnp.ones((), bool)
