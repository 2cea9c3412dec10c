"""What a function does to a Gaussian: mean and covariance of f(x), x ~ N(m, S), and how f(x) varies with x.

Everything here returns `Moments` and is composed from them.  Nothing divides by S: it may be singular, or zero, and
the gradients are finite there too.  All numbers are float64.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from forethought.types import Array


class Moments(NamedTuple):
    """Of f(x) for x ~ N(m, S): exact where f says so, otherwise of the Gaussian that has the same moments."""

    mean: Float[Array, " k"]
    cov: Float[Array, "k k"]
    slope: Float[Array, "k d"]
    """Cov[f(x), x] = slope S.  By Stein's lemma it is E[df/dx]."""


def linear(
    gain: Float[Array, "k d"], offset: Float[Array, " k"], mean: Float[Array, " d"], cov: Float[Array, "d d"]
) -> Moments:
    """f(x) = gain x + offset.  Exact."""
    return Moments(gain @ mean + offset, gain @ cov @ gain.T, gain)


def beside(mean: Float[Array, " d"], cov: Float[Array, "d d"], f: Moments) -> Moments:
    """Of [x; f(x)], given those of f(x)."""
    cross = f.slope @ cov
    both = jnp.block([[cov, cross.T], [cross, f.cov]])
    return Moments(jnp.concatenate([mean, f.mean]), both, jnp.concatenate([jnp.eye(mean.shape[0]), f.slope]))


def after(inner: Moments, outer: Moments) -> Moments:
    """Of g(f(x)), where `outer` are the moments of g of a Gaussian that has the moments of f(x), `inner`."""
    return outer._replace(slope=outer.slope @ inner.slope)


def symmetric(matrix: Float[Array, "*batch d d"]) -> Float[Array, "*batch d d"]:
    """(M + M^T) / 2: rounding errors are the only difference."""
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


def exp_difference(a: Float[Array, "*shape"], b: Float[Array, "*shape"], apart: Float[Array, "*shape"]) -> Array:
    """exp(a) - exp(b), given apart = a - b to full relative precision; no overflow on the way, no 0 times infinity."""
    above = apart > 0.0
    # The branch is taken in the argument, so that the derivative at apart = 0 is right.
    larger = jnp.exp(jnp.where(above, a, b))
    return jnp.where(above, -larger, larger) * jnp.expm1(jnp.where(above, -apart, apart))


def positive_solve(a: Float[Array, "d d"], b: Float[Array, "d e"]) -> tuple[Float[Array, "d e"], Float[Array, ""]]:
    """a^-1 b and log |a| of a symmetric positive definite matrix; NaN if it is none."""
    lower = jnp.linalg.cholesky(a, symmetrize_input=False)
    half = jax.lax.linalg.triangular_solve(lower, b, left_side=True, lower=True)
    whole = jax.lax.linalg.triangular_solve(lower, half, left_side=True, lower=True, transpose_a=True)
    return whole, 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower)))
