"""A reward and a termination that the model learns with the dynamics."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractCost
from forethought.types import Action, Array, Flag, Scalar, State, Time


class LearnedCost(AbstractCost):
    """c = -y[n] and alive = (y[n+1] < 1/2): the model's two extra outputs are the reward of the step and the
    probability-like indicator that the step ended the episode (1 in the data where it did, 0 elsewhere).

    There is no terminal cost: what lies beyond the horizon is not learned here.
    """

    n: int = eqx.field(static=True)
    """Dimension of the state: where in y the extra outputs begin."""
    extras: int = eqx.field(static=True, default=2, init=False)

    def stage(self, x: State, u: Action, y: Float[Array, " k"], t: Time) -> Scalar:
        """Minus the predicted reward."""
        del x, u, t
        return -y[self.n]

    def terminal(self, x: State) -> Scalar:
        """0."""
        return jnp.zeros((), x.dtype)

    def alive(self, y: Float[Array, " k"]) -> Flag:
        """False where the model says that the episode has ended (or says nothing: NaN)."""
        return y[self.n + 1] < 0.5
