"""Mixtures of Gaussians as predictions: for what can end in one place or in another."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Float

from forethought.core import AbstractPrediction
from forethought.math.angles import wrap_components
from forethought.types import Array, RandomKey, Scalar


class MixtureOfGaussians(AbstractPrediction):
    """sum_k w_k N(means_k, L_k L_k^T) with w = exp(log_weights), in the dtype of the means."""

    log_weights: Float[Array, " K"]
    """Logarithms of weights that sum to 1; -inf for a component that is not there."""
    means: Float[Array, "K k"]
    factors: Float[Array, "K k k"] | Float[Array, "K k"]
    """Lower Cholesky factors L_k of the covariances; or, where these are diagonal, the standard deviations."""

    @property
    def mean(self) -> Float[Array, " k"]:
        """sum_k w_k means_k.  Between two modes it may lie where nothing ever lands: sample, where that matters."""
        return jnp.sum(self._weights[:, None] * self.means, axis=0)

    @property
    def std(self) -> Float[Array, " k"]:
        """Standard deviation of each output: means of variances + variance of means."""
        within = self.factors**2 if self._diagonal else jnp.sum(self.factors**2, axis=-1)
        return jnp.sqrt(self._weights @ (within + (self.means - self.mean) ** 2))

    @property
    def covariance(self) -> Float[Array, "k k"]:
        """sum_k w_k (L_k L_k^T + (means_k - mean)(means_k - mean)^T)."""
        lower = jax.vmap(jnp.diag)(self.factors) if self._diagonal else self.factors
        away = self.means - self.mean
        within = jnp.einsum("c,cij,ckj->ik", self._weights, lower, lower)
        return within + jnp.einsum("c,ci,cj->ij", self._weights, away, away)

    def sample(self, key: RandomKey) -> Float[Array, " k"]:
        """means_c + L_c eps with eps ~ N(0, I) and the component c drawn by its weight.

        The component is found by inversion, with one uniform number: predictions that share a key and are nearly the
        same then choose the same component, so that plans are compared on equal terms.
        """
        k_mode, k_noise = jr.split(key)
        running = jnp.cumsum(self._weights)
        chance = jr.uniform(k_mode, (), running.dtype) * running[-1]
        # Comparisons and a sum, not a search and a look-up: a compiler makes vector instructions of these.
        chosen = jnp.arange(running.shape[0]) == jnp.sum(chance >= running[:-1])
        pick = lambda v: jnp.sum(jnp.where(chosen.reshape(-1, *[1] * (v.ndim - 1)), v, 0.0), axis=0)
        mean, factor = pick(self.means), pick(self.factors)
        # A weight that is not a number chooses nothing; the comparisons would choose the first.
        mean = jnp.where(running[-1] > 0.0, mean, jnp.nan)
        noise = jr.normal(k_noise, mean.shape, mean.dtype)
        return mean + (factor * noise if self._diagonal else jnp.sum(factor * noise, axis=-1))

    def log_prob(self, y: Float[Array, " k"], angles: Sequence[int] = ()) -> Scalar:
        """log sum_k exp(log w_k + log N(y; means_k, L_k L_k^T)), by log-sum-exp."""
        return jax.scipy.special.logsumexp(self.log_weights + self.component_log_prob(y, angles))

    def component_log_prob(self, y: Float[Array, " k"], angles: Sequence[int] = ()) -> Float[Array, " K"]:
        """log N(y; means_k, L_k L_k^T) of each: -1/2 |L_k^-1 (y - means_k)|^2 - log det L_k - k/2 log 2 pi.

        Components of y at the indices `angles` are taken in the turn that is nearest to each mean: modes may be further
        than half a turn apart.
        """
        away = jax.vmap(lambda mean: wrap_components(y - mean, angles))(self.means)
        if self._diagonal:
            z, scale = away / self.factors, self.factors
        else:
            solve = lambda lower, v: jax.scipy.linalg.solve_triangular(lower, v, lower=True)
            z, scale = jax.vmap(solve)(self.factors, away), jnp.diagonal(self.factors, axis1=1, axis2=2)
        constant = 0.5 * jnp.log(2.0 * jnp.pi)
        return -jnp.sum(0.5 * z**2 + jnp.log(scale) + constant, axis=-1)

    @property
    def _weights(self) -> Float[Array, " K"]:
        return jnp.exp(self.log_weights)

    @property
    def _diagonal(self) -> bool:
        return self.factors.ndim == self.means.ndim


def mixture(
    log_weights: Float[Array, " K"], means: Float[Array, "K k"], factors: Float[Array, "K k k"] | Float[Array, "K k"]
) -> MixtureOfGaussians:
    """The prediction of these components."""
    # Type checkers take the abstract `mean`, which is a property here, for one more argument.
    return MixtureOfGaussians(log_weights, means, factors)  # pyright: ignore[reportCallIssue]
