"""Dynamics that need no learning: what a planner could do if it knew the truth."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from forethought.core import AbstractDynamics
from forethought.math.gaussian import DiagonalGaussian
from forethought.types import Action, Array, RandomKey, State, Time


class KnownDynamics(AbstractDynamics):
    """y = step(x, u), certain.  `step` may be a module whose arrays are then arguments of compiled programs."""

    step: Callable[[Array, Array], Array]

    def predict(self, x: State, u: Action, t: Time) -> DiagonalGaussian:
        """The next state with standard deviation 0."""
        del t
        y = self.step(x, u)
        return DiagonalGaussian(y, jnp.zeros_like(y))

    def draw(self, key: RandomKey, particles: int) -> KnownDynamics:
        """Copies: there is no doubt."""
        del key
        repeat = lambda leaf: jnp.broadcast_to(leaf, (particles, *leaf.shape)) if isinstance(leaf, jax.Array) else leaf
        return jax.tree.map(repeat, self)
