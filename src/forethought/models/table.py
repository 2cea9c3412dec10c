"""The rows of a dataset as models in float64 want them: NumPy, without padding, in standard units."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from forethought.math.finite import LARGEST
from forethought.math.scaling import Scaler, features, targets
from forethought.types import Array, Dataset, RandomKey, Spec, UserError


class Table(NamedTuple):
    """What goes in and what comes out, one row per transition that can be used."""

    z: Float[np.ndarray, "r f"]
    """Features of state and action."""
    y: Float[np.ndarray, "r k"]
    """Change of state, with angles the short way round, then extras."""
    left_out: int
    """Rows with a number that is not finite, or beyond what any sensor says."""


def need_sizes(spec: Spec, data: Dataset) -> None:
    """Raise `UserError` if the data are not of the system that the model was made for."""
    for what, given, made in (("states", data.x.shape[1], spec.n), ("actions", data.u.shape[1], spec.m)):
        if given != made:
            raise UserError(
                f"the data have {what} of size {given}, and the model was made for {what} of size {made}: call init "
                "with the spec of the data."
            )


def usable(data: Dataset, extras: int, xp: Any = np) -> Any:
    """Which rows [C] are no padding and have nothing but credible numbers; xp is numpy or jax's."""
    sound = xp.arange(data.capacity) < data.count
    for part in (data.x, data.u, data.y, *([data.reward] if extras else [])):
        row = xp.abs(xp.asarray(part)).reshape(data.capacity, -1)
        with np.errstate(invalid="ignore"):
            sound = sound & xp.all(row <= LARGEST, axis=1)
    return sound


def table(spec: Spec, data: Dataset) -> Table:
    """Features and targets of the usable rows.  Raises `UserError` if the data are of another system."""
    need_sizes(spec, data)
    use = usable(data, spec.extras)
    extras = np.stack([np.asarray(data.reward), np.asarray(data.terminated, np.float64)], axis=1)[:, : spec.extras]
    # Of all rows, those not in use too: so it compiles once per capacity.
    z, y = _rows(spec, np.asarray(data.x), np.asarray(data.u), np.asarray(data.y), extras)
    return Table(np.asarray(z)[use], np.asarray(y)[use], int(data.count) - int(use.sum()))


@eqx.filter_jit
def _rows(spec: Spec, x: Array, u: Array, y: Array, extras: Array) -> tuple[Array, Array]:
    z = jax.vmap(lambda x, u: features(spec, x, u))(jnp.asarray(x, jnp.float64), jnp.asarray(u, jnp.float64))
    return z, jax.vmap(lambda x, y, e: targets(spec, x, y, e))(x, y, extras)


def standard(values: Float[np.ndarray, "r k"], least: float = 1e-6) -> Scaler:
    """Mean and standard deviation per column, float64.

    A column whose standard deviation is below `least` times its largest magnitude does not vary and keeps std = 1.
    For inputs that ought to be the rounding error of float32, so that noise is not taken for information; for targets
    less, so that a small change is still predicted in its own units.
    """
    mean = values.mean(axis=0)
    std = np.sqrt(((values - mean) ** 2).mean(axis=0))
    std = np.where(std > np.maximum(least * np.abs(values).max(axis=0), 1e-150), std, 1.0)
    return Scaler(jnp.asarray(mean), jnp.asarray(std))


def identity(k: int) -> Scaler:
    """The scaler before any data, float64."""
    return Scaler(jnp.zeros((k,), jnp.float64), jnp.ones((k,), jnp.float64))


def generator(key: RandomKey) -> np.random.Generator:
    """NumPy's random numbers from a key of jax."""
    return np.random.default_rng(np.asarray(jr.key_data(key)))
