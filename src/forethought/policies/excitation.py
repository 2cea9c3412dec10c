"""Base policies: what to do before anything is known."""

from __future__ import annotations

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractPolicy
from forethought.math.noise import coloured
from forethought.types import Action, Actions, Array, RandomKey, State, Time


class RandomPolicy(AbstractPolicy[RandomKey]):
    """Independent uniform actions, as `action_space.sample()` gives."""

    actions: Actions

    def init(self, x: State, key: RandomKey) -> RandomKey:
        """The key of the action sequence."""
        del x
        return key

    def act(self, carry: RandomKey, x: State, t: Time) -> tuple[Action, RandomKey]:
        """A uniform action."""
        del x, t
        key, now = jr.split(carry)
        return self.actions.sample(now), key


class ColouredPolicy(AbstractPolicy[Float[Array, "H d"]]):
    """Smooth random actions with spectrum f^-beta and standard deviation `scale` in half ranges, clipped.

    A system with inertia averages independent actions away; smooth ones move it.  The sequence repeats after `steps`.
    """

    actions: Actions
    steps: int = 200
    beta: float = 1.0
    scale: float = 1.0

    def init(self, x: State, key: RandomKey) -> Float[Array, "H d"]:
        """The whole sequence, in search coordinates."""
        del x
        return self.scale * coloured(key, (self.steps, self.actions.d), self.beta)

    def act(self, carry: Float[Array, "H d"], x: State, t: Time) -> tuple[Action, Float[Array, "H d"]]:
        """The action of step t."""
        del x
        return self.actions.decode(self.actions.clip(carry[jnp.asarray(t) % self.steps])), carry
