"""Angles."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.types import Array


def wrap(angle: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """The equivalent angle in [-pi, pi), in rad: a - 2 pi floor((a + pi) / (2 pi)).

    An angle that is already inside comes back bit for bit: (a + pi) mod 2 pi - pi would round it to steps of 2.4e-7
    in float32 each time.
    """
    angle = jnp.asarray(angle)
    turns = jnp.floor((angle + np.pi) / (2.0 * np.pi))
    wrapped = jnp.where(turns == 0, angle, angle - 2.0 * np.pi * turns)
    # Just below -pi the sum rounds to +pi, which is the same angle and outside the half-open interval.
    return jnp.where(wrapped >= np.pi, jnp.asarray(-np.pi, angle.dtype), wrapped)


def wrap_components(x: Float[Array, " n"], angles: Sequence[int]) -> Float[jax.Array, " n"]:
    """x with the components at the indices `angles` wrapped to [-pi, pi)."""
    x = jnp.asarray(x)
    if not angles:
        return x
    index = np.asarray(angles)
    return x.at[index].set(wrap(x[index]))
