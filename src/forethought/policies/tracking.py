"""Feedback around a planned trajectory."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float, Int

from forethought.core import AbstractPolicy
from forethought.math.angles import wrap_components
from forethought.types import Action, Array, Box, RandomKey, State, Time


class Tracking(AbstractPolicy[None]):
    """u = us_t + K_t (x - xs_t) within the limits: what iterative LQR returns.  After the end its last line holds.

    Where `angles` names components, their difference is taken the short way round.
    """

    xs: Float[Array, "H n"]
    """The states that the plan passes through."""
    us: Float[Array, "H m"]
    K: Float[Array, "H m n"]
    actions: Box
    t0: Int[Array, ""]
    angles: tuple[int, ...] = eqx.field(static=True, default=())

    def init(self, x: State, key: RandomKey) -> None:
        """Nothing to remember."""
        del x, key

    def act(self, carry: None, x: State, t: Time) -> tuple[Action, None]:
        """The planned action of step t, corrected for where the system really is."""
        index = jnp.clip(t - self.t0, 0, self.us.shape[0] - 1)
        off = wrap_components(jnp.asarray(x, self.xs.dtype) - self.xs[index], self.angles)
        # What cannot be seen cannot be corrected: no feedback from a number that is not finite.
        u = self.us[index] + jnp.sum(self.K[index] * jnp.where(jnp.isfinite(off), off, 0.0), axis=1)
        return jnp.clip(u, self.actions.low, self.actions.high).astype(jnp.float32), carry
