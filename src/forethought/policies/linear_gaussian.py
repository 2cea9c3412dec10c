"""The lecture's three controllers as one: open loop, feedback, and feedback with noise."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Bool, Float, Int

from forethought.core import AbstractPolicy
from forethought.math.angles import wrap_components
from forethought.types import Action, Array, Box, RandomKey, State, Time


class Gains(NamedTuple):
    """u = us_t + K_t (x - xs_t) + L_t e, e ~ N(0, I), around a reference (xs, us).

    The lecture's controllers are values of it: K = 0 and L = 0 is open loop (v0.5), L = 0 is deterministic feedback
    (v1.0), and with both it is the linear-Gaussian one (v2.0).
    """

    xs: Float[Array, "*batch T n"]
    us: Float[Array, "*batch T m"]
    K: Float[Array, "*batch T m n"]
    L: Float[Array, "*batch T m m"]


class Remembered(NamedTuple):
    """What a linear-Gaussian controller carries through an episode."""

    key: RandomKey
    x0: Float[Array, " n"]
    """The state in which it took over."""
    index: Int[Array, ""]
    """Which of its controllers is in charge."""


class LinearGaussianController(AbstractPolicy[Remembered]):
    """One controller per initial condition; the one whose initial state is nearest takes an episode.

    The mean is kept within the limits, and so is what the noise makes of it; how often that happens is for the loop to
    report, since a clipped action is none of the Gaussian.  After its last step a controller holds that step's line.
    """

    gains: Gains
    """With a leading axis of conditions."""
    starts: Float[Array, "c n"]
    """The initial states that they were made for."""
    widths: Float[Array, " n"]
    """Units in which initial states are compared."""
    anchored: Bool[Array, ""]
    """Whether the reference is the state in which the controller took over, rather than `gains.xs`."""
    only: Int[Array, ""]
    """The condition whose controller is used whatever the initial state; -1: the nearest."""
    noise: Float[Array, ""]
    """Factor of L: 0 for the mean."""
    actions: Box
    angles: tuple[int, ...] = eqx.field(static=True, default=())

    def init(self, x: State, key: RandomKey) -> Remembered:
        """Choose the controller."""
        x0 = jnp.asarray(x, self.starts.dtype)
        off = jax.vmap(lambda start: wrap_components(x0 - start, self.angles))(self.starts) / self.widths
        nearest = jnp.argmin(jnp.sum(off**2, axis=1)).astype(jnp.int32)
        return Remembered(key, x0, jnp.where(self.only < 0, nearest, self.only).astype(jnp.int32))

    def act(self, carry: Remembered, x: State, t: Time) -> tuple[Action, Remembered]:
        """The action of step t, float32."""
        key, now = jr.split(carry.key)
        xs, us, K, L = (part[carry.index, jnp.clip(t, 0, self.gains.us.shape[1] - 1)] for part in self.gains)
        reference = jnp.where(self.anchored, carry.x0, xs)
        off = wrap_components(jnp.asarray(x, xs.dtype) - reference, self.angles)
        # What cannot be seen cannot be corrected: no feedback from a number that is not finite.
        mean = us + jnp.sum(K * jnp.where(jnp.isfinite(off), off, 0.0), axis=1)
        low, high = jnp.asarray(self.actions.low, mean.dtype), jnp.asarray(self.actions.high, mean.dtype)
        noise = self.noise * jnp.sum(L * jr.normal(now, us.shape, us.dtype), axis=1)
        u = jnp.clip(jnp.clip(mean, low, high) + noise, low, high)
        return u.astype(jnp.float32), Remembered(key, carry.x0, carry.index)
