"""A fixed sequence of actions."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.core import AbstractPolicy
from forethought.types import Action, Array, RandomKey, State, Time


class OpenLoop(AbstractPolicy[None]):
    """u_t = us[t - t0], whatever the state; the last action is held after the end."""

    us: Float[Array, "H m"]
    t0: Int[Array, ""]

    def init(self, x: State, key: RandomKey) -> None:
        """Nothing to remember."""
        del x, key

    def act(self, carry: None, x: State, t: Time) -> tuple[Action, None]:
        """The planned action of step t."""
        del x
        return self.us[jnp.clip(t - self.t0, 0, self.us.shape[0] - 1)], carry
