"""Angles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.types import Array, UserError


def wrap(angle: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """The equivalent angle in [-pi, pi), in rad: a - 2 pi floor((a + pi) / (2 pi)).

    An angle that is already inside comes back bit for bit: (a + pi) mod 2 pi - pi would round it to steps of 2.4e-7
    in float32 each time.
    """
    angle = jnp.asarray(angle)
    turns = jnp.floor((angle + np.pi) / (2.0 * np.pi))
    wrapped = jnp.where(turns == 0, angle, angle - 2.0 * np.pi * turns)
    # Rounding may leave it a little outside, at either end; both ends are the same angle.  The difference is zero: it
    # keeps the derivative 1 there too.
    outside = (wrapped >= np.pi) | (wrapped < -np.pi)
    return jnp.where(outside, angle - jax.lax.stop_gradient(angle) - np.pi, wrapped)


def wrap_components(x: Float[Array, " n"], angles: Sequence[int]) -> Float[jax.Array, " n"]:
    """x with the components at the indices `angles` wrapped to [-pi, pi)."""
    x = jnp.asarray(x)
    if not angles:
        return x
    index = np.asarray(angles)
    return x.at[index].set(wrap(x[index]))


def wrap_observation(x: np.ndarray, angles: Sequence[int]) -> np.ndarray:
    """`wrap_components` of a float64 vector in NumPy: what is recorded does not depend on whether jax has 64-bit on."""
    if not angles:
        return x
    index = np.asarray(angles)
    angle = x[index]
    turns = np.floor((angle + np.pi) / (2.0 * np.pi))
    inside = np.where(turns == 0, angle, angle - 2.0 * np.pi * turns)
    result = x.copy()
    # Rounding may leave it a little outside, at either end; both ends are the same angle.
    result[index] = np.where((inside >= np.pi) | (inside < -np.pi), -np.pi, inside)
    return result


def checked_angles(angles: object, n: int, name: str) -> tuple[int, ...]:
    """The indices in ascending order.  Raises `UserError` unless each names one of n components, and none twice."""
    given: tuple[Any, ...] = tuple(angles) if isinstance(angles, Sequence) and not isinstance(angles, str) else (None,)
    whole = all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) and 0 <= i < n for i in given)
    if not whole or len(set(given)) < len(given):
        raise UserError(
            f"angles of {name} is {repr(angles)[:80]}; allowed are indices of components that are angles in rad, whole "
            f"numbers from 0 to {n - 1}, each at most once."
        )
    return tuple(sorted(int(i) for i in given))
