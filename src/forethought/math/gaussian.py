"""Diagonal Gaussians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractPrediction
from forethought.types import Array, RandomKey, Scalar


class DiagonalGaussian(AbstractPrediction):
    """N(mean, diag(std^2))."""

    mean: Float[Array, " k"]
    std: Float[Array, " k"]

    def sample(self, key: RandomKey) -> Float[Array, " k"]:
        """mean + std * eps with eps ~ N(0, I), in the dtype of the mean."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def log_prob(self, y: Float[Array, " k"]) -> Scalar:
        """-1/2 sum ((y - mean)/std)^2 - sum log std - k/2 log 2 pi."""
        z = (y - self.mean) / self.std
        constant = 0.5 * jnp.log(2.0 * jnp.pi)
        return -jnp.sum(0.5 * z**2 + jnp.log(self.std) + constant)
