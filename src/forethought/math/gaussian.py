"""Diagonal Gaussians, and predictions of angles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.core import AbstractPrediction
from forethought.math.angles import wrap_components
from forethought.math.mixture import MixtureOfGaussians
from forethought.types import Array, RandomKey, Scalar

P = TypeVar("P", bound=AbstractPrediction)


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


class Wrapped(AbstractPrediction):
    """A prediction whose components at the indices `angles` are angles on [-pi, pi).  Made by `wrapped`.

    Its density is that of the turn nearest to the unwrapped mean, log p(m + wrap(y - m)); in a mixture, nearest to the
    mean of each component.  That is the density on the circle as long as the spread is small against a turn.
    """

    mean: Float[Array, " k"]
    unwrapped: AbstractPrediction
    """What the model said, with angles anywhere on the line."""
    angles: tuple[int, ...] = eqx.field(static=True)

    @property
    def std(self) -> Array:
        """Of the prediction as it was, which must have one: wrapping moves angles, and their spread along with them."""
        return self.unwrapped.std  # pyright: ignore[reportAttributeAccessIssue]

    def sample(self, key: RandomKey) -> Float[Array, " k"]:
        """One draw of y, angles on [-pi, pi)."""
        return wrap_components(self.unwrapped.sample(key), self.angles)

    def log_prob(self, y: Float[Array, " k"]) -> Scalar:
        """log p(y | x, u) in nats, the same for every turn that y is given in."""
        if isinstance(self.unwrapped, MixtureOfGaussians):
            return self.unwrapped.log_prob(y, self.angles)
        off = wrap_components(y - self.unwrapped.mean, self.angles)
        # Where nothing is wrapped y goes in as it came: mean + (y - mean) would round it.
        angle = jnp.zeros(y.shape, bool).at[jnp.asarray(self.angles)].set(True)
        return self.unwrapped.log_prob(jnp.where(angle, self.unwrapped.mean + off, y))


def wrapped(prediction: P, angles: Sequence[int]) -> P | Wrapped:
    """The prediction with its components at the indices `angles` on [-pi, pi); itself if there are none.

    The last thing that a model's `predict` does.  Averages over several predictions are taken before it: the mean of
    two angles that were wrapped is not the angle between them.
    """
    if not angles:
        return prediction
    return Wrapped(wrap_components(prediction.mean, angles), prediction, tuple(angles))
