"""What users hand to the functions that compute in float64 from anywhere: arrays of real numbers, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from forethought.types import Array, UserError


def real_numbers(function: str, name: str, value: Any) -> Array:
    """The value as an array of real numbers.  Raises `UserError` if it is none."""
    if isinstance(value, Tracer):
        array = value
    else:
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            raise UserError(f"{name} in {function} is no array: its rows have different lengths.") from None
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise UserError(f"{name} in {function} holds {array.dtype}; it must hold real numbers.")
    return array


def finite(function: str, name: str, array: Array) -> None:
    """Raises `UserError` for the first number that is not finite, where numbers are known (not inside jit)."""
    if isinstance(array, np.ndarray) and not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        place = f" at {where}" if where else ""
        raise UserError(f"{name} in {function} is {array[tuple(where)]}{place}; every number must be finite.")


def can_be_wide(function: str, values: Iterable[Any]) -> None:
    """Raises `UserError` inside jit, vmap or grad without 64-bit numbers: there they cannot be switched on."""
    if any(isinstance(value, Tracer) for value in values) and not jax.config.read("jax_enable_x64"):
        raise UserError(
            f"{function} computes in float64, and inside jit, vmap or grad it can do so only if jax's 64-bit numbers "
            "are on: call jax.config.update('jax_enable_x64', True) first."
        )


def wide(value: Any, array: Array) -> Array:
    """In float64, from where it lies: an array on a device stays there."""
    if isinstance(value, jax.Array):
        return value if value.dtype == jnp.float64 else value.astype(jnp.float64)
    return np.asarray(array, np.float64)
