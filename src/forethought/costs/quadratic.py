"""Quadratic costs."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.math.angles import wrap_components
from forethought.types import Action, Array, Flag, Scalar, State, Time


class Quadratic(AbstractCost):
    """c(x, u) = (x - goal)' Q (x - goal) + (u - rest)' R (u - rest), with terminal cost (x - goal)' F (x - goal).

    There is no factor 1/2.  The stage cost is that of the state in which the action is taken, as in the textbook's
    linear-quadratic regulator, so the state after the last action is charged only by F.  A weight is a matrix, or a
    vector that stands for a diagonal one.  Where `angles` names components, their difference from the goal is taken
    the short way round.
    """

    goal: Float[Array, " n"]
    state_weight: Float[Array, " n"] | Float[Array, "n n"]
    """Q."""
    action_weight: Float[Array, " m"] | Float[Array, "m m"]
    """R."""
    final_weight: Float[Array, " n"] | Float[Array, "n n"] | None = None
    """F; None: no terminal cost."""
    rest: Float[Array, " m"] | None = None
    """The action that costs nothing (a quadrotor's hovering thrust); None: 0."""
    angles: tuple[int, ...] = eqx.field(static=True, default=())
    extras: int = eqx.field(static=True, default=0, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """(x - goal)' Q (x - goal) + (u - rest)' R (u - rest)."""
        del y, t
        effort = u if self.rest is None else u - jnp.asarray(self.rest, u.dtype)
        state = form(distance(x, self.goal, self.angles), self.state_weight)
        return state + form(effort, self.action_weight).astype(x.dtype)

    def terminal(self, x: State) -> Scalar:
        """(x - goal)' F (x - goal)."""
        if self.final_weight is None:
            return jnp.zeros((), x.dtype)
        return form(distance(x, self.goal, self.angles), self.final_weight)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """Always: this cost ends no episode."""
        del y
        return jnp.ones((), bool)


def distance(x: State, goal: Float[Array, " n"], angles: tuple[int, ...]) -> Float[Array, " n"]:
    """x - goal, the short way round where a component is an angle; in the dtype of x."""
    return wrap_components(x - jnp.asarray(goal, x.dtype), angles)


def form(e: Float[Array, " k"], weight: Float[Array, " k"] | Float[Array, "k k"]) -> Scalar:
    """e' W e, for a matrix W or the vector of its diagonal; in the dtype of e."""
    weight = jnp.asarray(weight, e.dtype)
    return jnp.sum(weight * e * e) if weight.ndim == 1 else e @ weight @ e
