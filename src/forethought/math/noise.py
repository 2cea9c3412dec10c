"""Random sequences that are smooth in time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from forethought.types import Array, RandomKey


@functools.lru_cache(maxsize=64)
def _colouring(steps: int, beta: float) -> np.ndarray:
    """The linear map [steps, 2 (steps//2 + 1)] from white spectral coefficients to a sequence of unit variance."""
    frequencies = np.arange(steps // 2 + 1)
    amplitude = np.maximum(frequencies, 1.0) ** (-beta / 2.0)  # the zero frequency gets the power of the lowest one
    angle = 2.0 * np.pi * np.outer(np.arange(steps), frequencies) / steps
    basis = np.concatenate([np.cos(angle) * amplitude, np.sin(angle) * amplitude], axis=1)
    # Every row is scaled by its exact standard deviation, so that a noise scale means what it says at every step
    # and for every length (the usual sample normalisation leaves 2 to 20% too much).
    return basis / np.linalg.norm(basis, axis=1, keepdims=True)


def coloured(key: RandomKey, shape: tuple[int, ...], beta: float) -> Float[Array, "..."]:
    """Gaussian sequences with power spectrum f^-beta along the axis before the last, variance exactly 1 at each step.

    shape is (..., H, d); the d coordinates and all leading axes are independent.  beta = 0 is white noise, 2 is close
    to a random walk.  float32.  After Timmer and Koenig (1995), Pinneri et al. (2020).
    """
    *batch, steps, width = shape
    if beta == 0.0 or steps == 1:
        return jax.random.normal(key, shape, jnp.float32)
    colouring = jnp.asarray(_colouring(steps, float(beta)), jnp.float32)
    white = jax.random.normal(key, (*batch, width, colouring.shape[1]), jnp.float32)
    return jnp.swapaxes(white @ colouring.T, -1, -2)
