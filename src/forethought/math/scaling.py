"""What a model sees instead of raw states and actions: features of unit scale."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Bool, Float

from forethought.math.angles import wrap_components
from forethought.types import Action, Array, Spec, State


class Scaler(eqx.Module):
    """z = (v - mean) / std per component; a component that does not vary keeps std = 1."""

    mean: Float[Array, " k"]
    std: Float[Array, " k"]

    def scale(self, v: Float[Array, " k"]) -> Float[Array, " k"]:
        """To unit scale."""
        return (v - self.mean) / self.std

    def unscale(self, z: Float[Array, " k"]) -> Float[Array, " k"]:
        """Back to the data's scale."""
        return z * self.std + self.mean


def identity_scaler(k: int) -> Scaler:
    """The scaler before any data, float32."""
    return Scaler(jnp.zeros((k,), jnp.float32), jnp.ones((k,), jnp.float32))


def fit_scaler(values: Float[Array, "C k"], use: Bool[Array, " C"]) -> Scaler:
    """Mean and standard deviation of the rows in use, computed in the dtype of the values, stored as float32.

    A standard deviation below 1e-6 of the largest magnitude is rounding error, not variation.  There is no smallest
    magnitude: what moves by 1e-9 in its units moves.
    """
    weight = use.astype(values.dtype)[:, None]
    total = jnp.maximum(jnp.sum(weight), 1.0)
    mean = jnp.sum(weight * values, axis=0) / total
    std = jnp.sqrt(jnp.sum(weight * (values - mean) ** 2, axis=0) / total)
    size = jnp.max(jnp.where(use[:, None], jnp.abs(values), 0.0), axis=0)
    std = jnp.where(std > 1e-6 * size, std, 1.0)
    return Scaler(mean.astype(jnp.float32), std.astype(jnp.float32))


def feature_count(spec: Spec) -> int:
    """Number of features of (x, u)."""
    return spec.n + len(spec.angles) + spec.m


def features(spec: Spec, x: State, u: Action) -> Float[Array, " f"]:
    """[components of x that are not angles, sines, cosines, u]: what models regress on."""
    if not spec.angles:
        return jnp.concatenate([x, u])
    plain = jnp.asarray([i for i in range(spec.n) if i not in spec.angles], jnp.int32)
    angle = x[jnp.asarray(spec.angles, jnp.int32)]
    return jnp.concatenate([x[plain], jnp.sin(angle), jnp.cos(angle), u])


def targets(spec: Spec, x: State, y: State, extras: Float[Array, " e"]) -> Float[Array, " k"]:
    """[change of state, with angles taken the short way round; extras as they are]: what models predict."""
    return jnp.concatenate([wrap_components(y - x, spec.angles), extras])
