"""The rows that local models are fitted to: one set per step, with what cannot be used counted and taken out.

Rollouts are [T, N, ...]: step, then rollout.  A rollout that ended early, or a row with a number that no sensor says,
has weight 0; what stands there is never read, so that it may be NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from forethought.math.finite import LARGEST
from forethought.types import Array

Weight = Float[Array, "*steps N"] | Bool[Array, "*steps N"]
"""1 for a row that counts and 0 for one that does not, [N] for whole rollouts or [T, N]."""


class LocalRows(NamedTuple):
    """What each step is fitted to, float64; zeros where the weight is 0."""

    xi: Float[Array, "T R d"]
    """Columns of the inputs z = [x; u], then of the outputs."""
    weight: Float[Array, "T R"]
    left_out: Float[Array, " T"]
    """Rows of weight 1 with a number that is not finite, or beyond what any sensor says."""

    @property
    def count(self) -> Float[Array, " T"]:
        """Rows that count, at each step."""
        return jnp.sum(self.weight, axis=1)

    @property
    def size(self) -> Float[Array, " d"]:
        """Largest magnitude of each column over all steps."""
        return jnp.max(jnp.abs(self.xi), axis=(0, 1), initial=0.0)

    @property
    def mean(self) -> Float[Array, "T d"]:
        """Of the rows of each step; 0 where there are none."""
        return jnp.sum(self.xi, axis=1) / jnp.maximum(self.count, 1.0)[:, None]

    def away(self, mean: Float[Array, "T d"]) -> Float[Array, "T R d"]:
        """Rows less the mean, times the root of their weight: A with A^T A the scatter."""
        return (self.xi - mean[:, None, :]) * jnp.sqrt(self.weight)[:, :, None]


def local_rows(
    z: Float[Array, "T N d"], y: Float[Array, "T N n"], weight: Weight, angles: Sequence[int] = (), window: int = 0
) -> LocalRows:
    """[z; y] in float64, y's components at the indices `angles` within half a turn of x, the first n columns of z.

    With a window each step is given the rows of the steps t - window .. t + window, too.
    """
    z, y = jnp.asarray(z, jnp.float64), jnp.asarray(y, jnp.float64)
    if angles:
        y = same_turn(y, z[:, :, : y.shape[2]], angles)
    xi = jnp.concatenate([z, y], axis=2)
    asked = jnp.broadcast_to(jnp.asarray(weight, jnp.float64), z.shape[:2])
    sound = jnp.all(jnp.abs(xi) <= LARGEST, axis=2)  # NaN is not
    use = jnp.where(sound, asked, 0.0)
    xi = jnp.where(use[:, :, None] > 0.0, xi, 0.0)
    lost = jnp.sum(jnp.where(sound, 0.0, asked), axis=1)
    if window == 0:
        return LocalRows(xi, use, lost)
    return LocalRows(_with_neighbours(xi, window), _with_neighbours(use, window), lost)


def _with_neighbours(values: Float[Array, "T N *rest"], window: int) -> Float[Array, "T R *rest"]:
    """The rows of 2 window + 1 steps at each, zeros beyond both ends."""
    steps = values.shape[0]
    padded = jnp.pad(values, [(window, window)] + [(0, 0)] * (values.ndim - 1))
    return jnp.concatenate([padded[i : i + steps] for i in range(2 * window + 1)], axis=1)


def same_turn(
    y: Float[Array, "*batch n"], x: Float[Array, "*batch n"], angles: Sequence[int]
) -> Float[Array, "*batch n"]:
    """y with its components at the indices `angles` moved by whole turns to within half a turn of x.

    An angle that is there already comes back bit for bit.
    """
    if not angles:
        return y
    at = np.asarray(angles)
    turns = jnp.round((x[..., at] - y[..., at]) / (2.0 * np.pi))
    return jnp.asarray(y).at[..., at].add(2.0 * np.pi * turns)


def unwrapped(
    x: Float[Array, "T N n"], y: Float[Array, "T N n"], weight: Weight, angles: Sequence[int]
) -> tuple[Float[Array, "T N n"], Float[Array, "T N n"]]:
    """States and next states of rollouts with angles on the line instead of on [-pi, pi).

    At each step the rollouts are put within half a turn of their circular mean, which itself is continuous in time;
    each y within half a turn of its x.  Only then can a line be fitted to rollouts on both sides of the cut, and the
    fit of one step be followed by that of the next.  A policy from such fits compares angles with its nominal ones, and
    has to take an observed angle in the turn that is nearest to those.
    """
    if not angles:
        return x, y
    x, y, at = jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64), np.asarray(angles)
    use = jnp.broadcast_to(jnp.asarray(weight, jnp.float64), x.shape[:2])[:, :, None] > 0.0
    angle = x[:, :, at]
    # Of what does not count, and of what is not a number, nothing goes into the mean.
    part = lambda f: jnp.sum(jnp.where(use & jnp.isfinite(angle), f(angle), 0.0), axis=1)
    mean = jnp.arctan2(part(jnp.sin), part(jnp.cos))
    steps = mean[1:] - mean[:-1]
    steps = steps - 2.0 * np.pi * jnp.round(steps / (2.0 * np.pi))
    line = mean[:1] + jnp.concatenate([jnp.zeros_like(mean[:1]), jnp.cumsum(steps, axis=0)])
    reference = jnp.zeros(x.shape, jnp.float64).at[:, :, at].set(line[:, None, :])
    x = same_turn(x, reference, angles)
    return x, same_turn(y, x, angles)
